"""A search on Ray Tune: the trials and what runs them."""
