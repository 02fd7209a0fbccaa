"""What `ray job submit` runs to train: the same program as `gan-dist train`."""

import sys

from gan_dist.cli import main

main(["train", *sys.argv[1:]])
