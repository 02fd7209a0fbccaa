"""One HTML page of a run or a search: a file that opens offline, or served and renewed."""
