"""Files of runs and searches: records, best release, model card, export, samples."""
