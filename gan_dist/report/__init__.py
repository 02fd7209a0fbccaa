"""One HTML page of a run or a search: it opens offline, and loads nothing."""
