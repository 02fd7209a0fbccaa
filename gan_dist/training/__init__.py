"""One process's training loop, and all that the two networks minimise. No Ray."""
