"""Entrypoint for `ray job submit`: the same program as `gan-dist export`."""

import sys

from gan_dist.cli import main

main(["export", *sys.argv[1:]])
