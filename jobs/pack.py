"""Entrypoint for `ray job submit`: the same program as `gan-dist pack`."""

import sys

from gan_dist.cli import main

main(["pack", *sys.argv[1:]])
