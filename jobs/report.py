"""Entrypoint for `ray job submit`: the same program as `gan-dist report`."""

import sys

from gan_dist.cli import main

main(["report", *sys.argv[1:]])
