"""Hyperparameter search: what varies (`parse.py`, `space.py`), and what picks it (`samplers.py`)."""
