"""The report of a run or a search: one HTML page that opens offline and loads nothing."""
