"""Nodes of a cluster: their resources, placement and checks."""
