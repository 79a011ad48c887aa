"""Engines in virtual time: their schedulers and caches, on hardware that is known by its figures."""
