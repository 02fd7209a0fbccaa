"""Submits a verb as a job from a checkout: the same program as `gan-dist submit`."""

import sys

from gan_dist.cli import main

main(["submit", *sys.argv[1:]])
