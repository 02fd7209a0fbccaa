"""Entrypoint for `ray job submit`: the same program as `gan-dist serve`."""

import sys

from gan_dist.cli import main

main(["serve", *sys.argv[1:]])
