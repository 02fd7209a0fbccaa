"""Entrypoint for `ray job submit`: the same program as `gan-dist tune`."""

import sys

from gan_dist.cli import main

main(["tune", *sys.argv[1:]])
