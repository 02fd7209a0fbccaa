"""Entrypoint for `ray job submit`: the same program as `gan-dist promote`."""

import sys

from gan_dist.cli import main

main(["promote", *sys.argv[1:]])
