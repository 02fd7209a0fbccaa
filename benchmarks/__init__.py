"""Benchmarks: ratios to references measured in the same run, with hardware, date and command."""
