"""Copying of training images: distances to the nearest training image, and a statistical test of them."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gan_dist.core.errors import DataError
from gan_dist.core.rng import permutation
from gan_dist.evaluation.metrics.checks import check_batch, check_finite

_PAIRS = 2**22  # distances computed at once: 32 MiB, and some temporaries of that size
_NO_ROW = torch.iinfo(torch.int64).max
_NEAREST = 0.01


QUERIES = 2_000
"""Generated and real images whose nearest training images are searched."""


def choose_queries(features: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor]:
    """Return a uniform choice of QUERIES rows, always the same; a set may be in the order of its classes."""
    chosen = torch.from_numpy(permutation(len(numbers), 0, "copying")[:QUERIES])
    return features[chosen], numbers[chosen]


class NearestNeighbours:
    """Finds for each query the nearest row of a training set, batch by batch; ties go to the lower number.

    Distances are computed from differences in float64. Norms and products would be faster and lose the small
    distances that matter here: an equal row is at distance 0, and results have the same bits for all batches
    and orders of the rows. Memory is O(q * d) besides blocks of distances.

    Args:
        queries: Features, any floating type (q, d); everything stays on their device.
        excluded: int64 (q,), a row to skip for each query, -1 for none: the query itself, if it is a row.

    Raises:
        DataError: a query is not finite.
        ValueError: other shapes.
    """

    def __init__(self, queries: Tensor, excluded: Tensor | None = None) -> None:
        count = len(queries)
        if queries.ndim != 2 or (excluded is not None and excluded.shape != (count,)):
            shape = None if excluded is None else tuple(excluded.shape)
            raise ValueError(f"queries {tuple(queries.shape)} and excluded {shape} are not (q, d), (q,)")
        check_finite(queries)
        self._queries = queries.detach().double()
        none = torch.full((count,), -1, device=queries.device)
        self._excluded = none if excluded is None else excluded.to(none)
        self.distances = torch.full_like(none, torch.inf, dtype=torch.float64)
        """float64 (q,): Euclidean distance to the nearest row; infinite before there is one."""
        self.indices = none.clone()
        """int64 (q,): number of the nearest row; -1 before there is one."""

    def update(self, indices: Tensor, features: Tensor) -> None:
        """Search rows, any floating type (B, d), with numbers int64 (B,). B may be 0.

        Raises DataError if a feature is not finite, ValueError for other shapes or a negative number.
        """
        check_batch(indices, features, self._queries.shape[1], _NO_ROW)
        check_finite(features)
        if not len(indices):
            return
        step = max(1, _PAIRS // max(1, len(self._queries)))
        numbers = indices.to(self.indices).split(step)
        for number, rows in zip(numbers, features.detach().to(self._queries).split(step), strict=True):
            distances = torch.cdist(rows, self._queries, compute_mode="donot_use_mm_for_euclid_dist")
            distances.masked_fill_(number[:, None] == self._excluded, torch.inf)
            nearest = distances.amin(0)
            self._update_nearest(nearest, torch.where(distances == nearest, number[:, None], _NO_ROW).amin(0))

    def merge(self, other: NearestNeighbours) -> None:
        """Add the rows of `other`, which has the same queries, in place.

        Raises ValueError if it has another number of queries.
        """
        if other.distances.shape != self.distances.shape:
            raise ValueError(f"cannot merge {len(other.distances)} queries into {len(self.distances)}")
        self._update_nearest(other.distances.to(self.distances), other.indices.to(self.indices))

    def _update_nearest(self, distances: Tensor, indices: Tensor) -> None:
        tied = (distances == self.distances) & (indices < self.indices)
        nearer = (distances < self.distances) | tied
        self.distances = torch.where(nearer, distances, self.distances)
        self.indices = torch.where(nearer, indices, self.indices)


@dataclass(frozen=True)
class CopyingTest:
    """Distances of generated images to the training set, compared with those of held-out real images."""

    z: float
    """Standard deviations by which the rank sum of generated images' distances exceeds that of equally
    distributed ones. About N(0, 1) for an honest generator; below -3 it copies; far above 0 its images are
    farther from the training set than real ones, as poor images are."""
    share: float
    """Share of generated images that are at least as near as the nearest 1 % of real ones: 0.01 is expected
    of an honest generator, more is copying. Unlike z it detects a generator that copies a few images and is
    otherwise poor."""


def copying_test(generated: Tensor, reference: Tensor) -> CopyingTest:
    """Compare distances to the nearest training image: (n,) of generated images and (m,) of real ones.

    The real ones are held out, or of the training set and not compared with themselves. z is the
    global form, the whole space as one cell, of the test of Meehan, Chaudhuri and Dasgupta 2020: the z-score
    of the Mann-Whitney U of `generated` above `reference`, (U - nm / 2) / sqrt(nm (n + m + 1) / 12), with
    the deviation corrected for ties. The normal approximation is good from about 20 images of each; `share`
    needs hundreds of real ones (the expected value is ceil(m / 100) / (m + 1)).

    Raises:
        DataError: a set is empty or a distance is not finite.
    """
    from scipy import stats  # which who only loads and samples does not have

    if not len(generated) or not len(reference):
        raise DataError(
            f"a test of copying compares {len(generated)} generated images with {len(reference)} real ones",
            "give at least one of each",
        )
    ours, theirs = generated.double().cpu().numpy(), reference.double().cpu().numpy()
    distances = np.concatenate([ours, theirs])
    if not np.isfinite(distances).all():
        raise DataError(
            f"{(~np.isfinite(distances)).sum()} of {len(distances)} distances to the training set are not "
            "finite: those images were compared with none of it",
            "give at least 2 training images",
        )
    ties = stats.tiecorrect(stats.rankdata(distances))
    z = stats.ranksums(ours, theirs).statistic / ties**0.5 if ties else 0.0
    nearest = np.quantile(theirs, _NEAREST, method="inverted_cdf")
    return CopyingTest(float(z), float((ours <= nearest).mean()))
