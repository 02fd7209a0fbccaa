"""What `ray job submit` runs to write a page of a run or search: the same program as `gan-dist report`."""

import sys

from gan_dist.cli import main

main(["report", *sys.argv[1:]])
