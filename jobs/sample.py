"""Entrypoint for `ray job submit`: the same program as `gan-dist sample`."""

import sys

from gan_dist.cli import main

main(["sample", *sys.argv[1:]])
