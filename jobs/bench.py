"""What `ray job submit` runs to measure: the same program as `gan-dist bench`."""

import sys

from gan_dist.cli import main

main(["bench", *sys.argv[1:]])
