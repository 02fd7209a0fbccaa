"""Packing: images from folders, tars, Parquet or torchvision to shards."""
