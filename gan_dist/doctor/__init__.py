"""What `gan-dist doctor` looks at that needs no Ray; the checks of a cluster are in `cluster/checkup.py`."""
