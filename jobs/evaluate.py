"""Entrypoint for `ray job submit`: the same program as `gan-dist evaluate`."""

import sys

from gan_dist.cli import main

main(["evaluate", *sys.argv[1:]])
