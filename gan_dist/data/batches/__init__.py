"""Batches of images: readers from memory, threads and Ray Data, and the buffers that they fill."""
