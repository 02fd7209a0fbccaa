"""Entrypoint for `ray job submit`: the same program as `gan-dist audit`."""

import sys

from gan_dist.cli import main

main(["audit", *sys.argv[1:]])
