"""What `ray job submit` runs to look at a cluster: the same program as `gan-dist doctor`."""

import sys

from gan_dist.cli import main

main(["doctor", *sys.argv[1:]])
