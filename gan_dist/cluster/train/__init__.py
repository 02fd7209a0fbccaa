"""A training run on Ray Train: the driver, its worker groups and their status."""
