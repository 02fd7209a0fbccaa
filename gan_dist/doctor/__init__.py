"""Checks of `gan-dist doctor` without Ray; those of a cluster are in `cluster/nodes/doctor_checks.py`."""
