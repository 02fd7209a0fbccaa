"""From stored images to batches in an exact order: packing, shards, order, batches."""
