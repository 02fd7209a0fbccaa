"""Files of runs, searches and releases: records, best release, model card, exports and samples."""
