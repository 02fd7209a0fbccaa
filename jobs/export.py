"""What `ray job submit` runs to export a generator: the same program as `gan-dist export`."""

import sys

from gan_dist.cli import main

main(["export", *sys.argv[1:]])
