"""Generators measured: images streamed through an extractor, what is kept of them, the scores of that."""
