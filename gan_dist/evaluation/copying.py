"""Whether a generator copies what it was trained on, and the pictures that show it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor

from gan_dist.core.rng import permutation
from gan_dist.evaluation.images import BLOCK
from gan_dist.evaluation.metrics.memorisation import NearestNeighbours, copying_test
from gan_dist.evaluation.reference import Reference
from gan_dist.evaluation.statistics import FeatureStatistics
from gan_dist.evaluation.tasks import CountedWorkers, EvaluationWorker, FindNearest, spans

QUERIES = 2_000
"""Generated and real images whose nearest neighbours are looked for."""
PAIRS = 16
"""Generated images that are shown beside their neighbours."""


@dataclass(frozen=True)
class Copies:
    """What was found."""

    figures: dict[str, object]
    """`copying_z`, `copied_share` and `copying_reference`: see `gan_dist.evaluation.metrics.memorisation`."""
    pairs: Tensor
    """uint8 (2 * pairs, C, R, R): the generated images that are nearest to a training image, each followed by
    that image."""


def find_copies(
    studio: EvaluationWorker, reference: Reference, found: FeatureStatistics, workers: CountedWorkers
) -> Copies:
    """Compare how near generated images are to the training set with how near real ones are.

    The real ones are those of the set to compare with. Where that is the training set itself, each is
    compared with all others, which are as near to it as held-out images would be.
    """
    assert found.reservoir is not None
    generated, made = _some(found.reservoir.features.cpu(), found.reservoir.indices.cpu())
    real, numbers = _some(reference.features, reference.numbers)
    trained = studio.reals(studio.trained_on)
    # The set itself, whatever the path that it is reached by: its images are at distance 0 from themselves.
    same = trained.fingerprint == studio.images.manifest.fingerprint()
    nobody = torch.full((len(generated) + len(real),), -1)
    excluded = torch.cat([nobody[: len(generated)], numbers]) if same else nobody
    queries = torch.cat([generated, real])

    nearest = NearestNeighbours(queries, excluded)
    parts = [FindNearest(queries, excluded, groups, images) for groups, images in spans(trained)]
    for result in workers(parts):
        nearest.merge(cast(NearestNeighbours, result))
    distances = nearest.distances
    test = copying_test(distances[: len(generated)], distances[len(generated) :])
    figures: dict[str, object] = {
        "copying_z": test.z,
        "copied_share": test.share,
        "copying_reference": "leave-one-out" if same else "held-out",
    }
    closest = distances[: len(generated)].argsort(stable=True)[:PAIRS]
    fakes = studio.fakes(0, reference.labels)
    pairs = []
    for query in closest.tolist():
        block, place = divmod(int(made[query]), BLOCK)
        pairs += [fakes.block(block, studio.device)[place].cpu(), trained.image(int(nearest.indices[query]))]
    return Copies(figures, torch.stack(pairs))


def _some(features: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return a uniform choice of QUERIES rows; a set may be in the order of its classes."""
    chosen = torch.from_numpy(permutation(len(numbers), 0, "copying")[:QUERIES])
    return features[chosen], numbers[chosen]
