"""The command line as `python -m gan_dist`."""

import sys

if not sys.flags.safe_path:
    # The working directory, where a user's file may be called `random.py`.
    sys.path.append(sys.path.pop(0))

from gan_dist.cli import main

main()
