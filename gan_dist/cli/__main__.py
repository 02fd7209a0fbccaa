"""`python -m gan_dist.cli`, as `gan-dist`."""

from gan_dist.cli import main

main()
