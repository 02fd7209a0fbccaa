"""What `ray job submit` runs to fetch the best release, or train it again: the program `gan-dist best`."""

import sys

from gan_dist.cli import main

main(["best", *sys.argv[1:]])
