"""Numba kernels on plain arrays; only home of numba."""
