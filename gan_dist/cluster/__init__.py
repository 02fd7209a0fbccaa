"""The only room that knows Ray Train and Ray Tune."""
