"""Entrypoint for `ray job submit`: the same program as `gan-dist doctor`."""

import sys

from gan_dist.cli import main

main(["doctor", *sys.argv[1:]])
