"""Measurements that need more than `gan-dist bench`: their servers and faults come from the tests."""
