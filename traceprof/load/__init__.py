"""The shape of the load: lengths, arrivals, concurrency, sessions."""
