"""Entrypoint for `ray job submit`: the same program as `gan-dist publish`."""

import sys

from gan_dist.cli import main

main(["publish", *sys.argv[1:]])
