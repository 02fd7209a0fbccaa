"""What `ray job submit` runs to measure a release: the same program as `gan-dist evaluate`."""

import sys

from gan_dist.cli import main

main(["evaluate", *sys.argv[1:]])
