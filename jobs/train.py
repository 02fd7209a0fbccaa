"""Entrypoint for `ray job submit`: the same program as `gan-dist train`."""

import sys

from gan_dist.cli import main

main(["train", *sys.argv[1:]])
