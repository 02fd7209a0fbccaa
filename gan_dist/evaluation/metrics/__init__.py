"""Metrics of generated images, one per file."""
