"""Whether a generator copies its training set: distances to the nearest training image, and their test."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
import torch.distributed as dist
from scipy import stats
from torch import Tensor

from gan_dist.core.errors import DataError
from gan_dist.evaluation.metrics.checks import check_batch, check_finite

_PAIRS = 2**22  # distances computed at once: 32 MiB, and some temporaries of that size
_NO_ROW = torch.iinfo(torch.int64).max
_NEAREST = 0.01


class NearestNeighbours:
    """For each query the nearest row of a training set that streams by; ties go to the lower number.

    Differences are taken in float64 and not expanded into norms and products, which would be faster and lose
    the small distances that matter here: an equal row is at distance 0, and results have the same bits in
    whatever batches, order or ranks rows come. Memory is O(q * d) besides blocks of distances.

    Args:
        queries: Features, any floating type (q, d), the same on all ranks; everything stays on their device.
        excluded: int64 (q,), the number of a row that does not count for the query, -1 for none: itself,
            where queries are of the training set.

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
        nobody = torch.full((count,), -1, device=queries.device)
        self._excluded = nobody if excluded is None else excluded.to(nobody)
        self.distances = torch.full_like(nobody, torch.inf, dtype=torch.float64)
        """float64 (q,): Euclidean distance to the nearest row; infinite where there was none."""
        self.indices = nobody.clone()
        """int64 (q,): the number of that row; -1 where there was none."""

    def update(self, indices: Tensor, features: Tensor) -> None:
        """Look among rows, any floating type (B, d), with numbers int64 (B,). B may be 0.

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
            self._take(nearest, torch.where(distances == nearest, number[:, None], _NO_ROW).amin(0))

    def merge(self, other: NearestNeighbours) -> None:
        """Look among the rows that `other` has seen, for the same queries, in place.

        Raises ValueError if it has another number of them.
        """
        if other.distances.shape != self.distances.shape:
            raise ValueError(f"cannot merge {len(other.distances)} queries into {len(self.distances)}")
        self._take(other.distances.to(self.distances), other.indices.to(self.indices))

    def all_reduce(self) -> None:
        """Find the nearest among the rows of all ranks, on every rank."""
        if dist.is_initialized():
            nearest = self.distances.clone()
            dist.all_reduce(nearest, dist.ReduceOp.MIN)
            self.indices = torch.where(self.distances == nearest, self.indices, _NO_ROW)
            dist.all_reduce(self.indices, dist.ReduceOp.MIN)
            self.distances = nearest

    def _take(self, distances: Tensor, indices: Tensor) -> None:
        tied = (distances == self.distances) & (indices < self.indices)
        nearer = (distances < self.distances) | tied
        self.distances = torch.where(nearer, distances, self.distances)
        self.indices = torch.where(nearer, indices, self.indices)


@dataclass(frozen=True)
class Copying:
    """How much nearer to the training set generated images are than real ones that are not of it."""

    z: float
    """Standard deviations by which the rank sum of generated images' distances exceeds that of equally
    distributed ones. About N(0, 1) for an honest generator; below -3 it copies; far above 0 its images are
    farther from the training set than real ones, as poor images are."""
    share: float
    """Share of generated images that are at least as near as the nearest 1 % of real ones: 0.01 is expected
    of an honest generator, more is copying. Unlike z it sees a generator that copies a few images and is
    otherwise poor."""


def copying_test(generated: Tensor, reference: Tensor) -> Copying:
    """Compare distances to the nearest training image: (n,) of generated images and (m,) of real ones.

    The real ones are held out, or each is of the training set and was not compared with itself. z is the
    global form, the whole space as one cell, of the test of Meehan, Chaudhuri and Dasgupta 2020: the z-score
    of the Mann-Whitney U of `generated` above `reference`, (U - nm / 2) / sqrt(nm (n + m + 1) / 12), with
    the deviation corrected for ties. The normal approximation is good from about 20 images of each; `share`
    needs hundreds of real ones (the expected value is ceil(m / 100) / (m + 1)).

    Raises:
        DataError: a set is empty or a distance is not finite.
    """
    if not len(generated) or not len(reference):
        raise DataError(
            f"a test of copying compares {len(generated)} generated images with {len(reference)} real ones: "
            "give at least one of each"
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
    return Copying(float(z), float((ours <= nearest).mean()))
