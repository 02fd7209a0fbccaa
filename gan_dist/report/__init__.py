"""One HTML page of a run or a search, which opens offline."""
