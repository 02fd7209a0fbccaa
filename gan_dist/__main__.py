"""The command line as `python -m gan_dist`."""

from gan_dist.cli import main

main()
