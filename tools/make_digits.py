"""Make the built-in digits from scikit-learn's copy: `python -m tools.make_digits`."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from gan_dist.data.builtin import DIGITS
from gan_dist.data.shards.rows import Rows
from gan_dist.data.shards.shard_set import write_set


def digits() -> Rows:
    """Return the 1,797 digits of 8x8, their 17 grey levels spread over 0 to 255, in the source's order."""
    source = load_digits()
    pixels = np.rint(source.data * (255 / 16)).astype(np.uint8)
    return Rows(pixels, source.target.astype(np.int64))


def main() -> None:
    """Write the shard and its manifest beside this file."""
    write_set(
        str(DIGITS),
        iter([digits()]),
        group_rows=128,
        height=8,
        width=8,
        channels=1,
        classes=tuple("0123456789"),
        source="Optical Recognition of Handwritten Digits, UCI Machine Learning Repository (test part)",
        license="CC BY 4.0",
        attribution="E. Alpaydin and C. Kaynak (1998), doi:10.24432/C50P49",
    )


if __name__ == "__main__":
    main()
