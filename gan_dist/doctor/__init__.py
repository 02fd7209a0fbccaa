"""Checks of a machine and of a configuration that need no Ray."""
