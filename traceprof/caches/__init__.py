"""What engines' prefix caches hold, and how much memory they have for it."""
