"""How far two random halves of the digits are from each other: the distance at which `make demo` ends.

Both halves are real, so their distance is the error of estimating moments from few images: c (1/m + 1/n) for
m and n images, twice as large for halves as for two sets of the whole size. Quarters test this. A run
compares as many generated images as the set has with all of it: other real ones would be at `same_counts`.
"""

from __future__ import annotations

from statistics import mean, stdev

import torch
from torch import Tensor

from gan_dist.core.rng import permutation
from gan_dist.data.batches.loader import to_batch
from gan_dist.data.batches.readers import read_all
from gan_dist.data.builtin import open_builtin
from gan_dist.evaluation.extractors.digits import load_digits
from gan_dist.evaluation.metrics.distances import frechet_distance
from gan_dist.evaluation.metrics.moments import Moments

SPLITS = 200


def run(*, quick: bool = False) -> dict[str, object]:
    """Return the distance of halves and quarters over random splits, and what it is at a run's counts."""
    images = open_builtin("builtin://digits")
    pixels = to_batch(read_all(images), images, images.manifest.height).images
    features = load_digits(torch.device("cpu"))(pixels).features
    splits = 10 if quick else SPLITS
    halves = [_distance(features, split, len(features) // 2) for split in range(splits)]
    quarters = [_distance(features, split, len(features) // 4) for split in range(splits)]
    return {
        "distance": mean(halves),
        "standard_deviation": stdev(halves),
        "least": min(halves),
        "most": max(halves),
        "same_counts": mean(halves) / 2,
        "quarters_over_halves": mean(quarters) / mean(halves),
        "images": len(features) // 2,
        "splits": splits,
    }


def _distance(features: Tensor, split: int, count: int) -> float:
    """Return the distance between the first and the second `count` of the rows in the order of a split."""
    order = torch.from_numpy(permutation(len(features), split, "halves"))
    first, second = features[order[:count]], features[order[count : 2 * count]]
    return frechet_distance(Moments.of(first), Moments.of(second))
