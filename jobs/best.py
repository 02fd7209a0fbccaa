"""Entrypoint for `ray job submit`: the same program as `gan-dist best`."""

import sys

from gan_dist.cli import main

main(["best", *sys.argv[1:]])
