"""Distances of parts of an image set: how far two halves of it are apart, and how noisy a distance is."""

from __future__ import annotations

from statistics import mean, pvariance

import torch
from torch import Tensor

from gan_dist.core.rng import permutation
from gan_dist.evaluation.metrics.distances import frechet_distance
from gan_dist.evaluation.metrics.moments import Moments

GROUPS = 10
"""Groups of images, of which one at a time is left out: the noise is known to
1 / sqrt(2 (GROUPS - 1)), 24 %."""


class Subsets:
    """Moments of subsets of an image set, which may overlap; every rank and worker has the same subsets.

    Args:
        members: bool (subsets, count): which of the set's images each has.
        dim: Number of features.
        device: Device of the moments.
    """

    def __init__(self, members: Tensor, dim: int, device: torch.device) -> None:
        self._members = members
        self.moments = [Moments.empty(dim, device) for _ in members]

    def update(self, indices: Tensor, features: Tensor) -> None:
        """Add rows (B, dim) with numbers int64 (B,)."""
        for members, moments in zip(self._members[:, indices.cpu()], self.moments, strict=True):
            moments.update(features[members.to(features.device)])

    def merge(self, other: Subsets) -> None:
        """Add the rows of `other`, in place."""
        for ours, theirs in zip(self.moments, other.moments, strict=True):
            ours.merge(theirs)

    def all_reduce(self) -> None:
        """Add the rows of all ranks, in place."""
        for moments in self.moments:
            moments.all_reduce()


def halves(count: int, dim: int) -> Tensor | None:
    """Return random halves of a set of `count` images, bool (splits, count); None for fewer than 4.

    The distance of halves varies the more from split to split the fewer features it is of. There are
    2048 / `dim` splits, so that the sums of all take no more time and memory than those of one of 2048, and
    no more than a million / `count`, since each is a permutation.
    """
    if count < 4:
        return None
    splits = max(1, min(2048 // dim, 1_000_000 // count))
    chosen = [permutation(count, split, "halves") < count // 2 for split in range(splits)]
    return torch.stack([torch.from_numpy(half) for half in chosen])


def halves_distance(whole: Moments, halves: Subsets) -> float:
    """Return the mean Frechet distance between random halves of a set and its other halves."""
    return mean(frechet_distance(half, whole.without(half)) for half in halves.moments)


def groups(count: int) -> Tensor:
    """Return groups of images whose numbers follow one another, bool (groups, count)."""
    size = min(GROUPS, count // 2)
    return torch.arange(count) * size // count == torch.arange(size)[:, None]


def distance_noise(distance: float, generated: Moments, groups: Subsets, real: Moments) -> float:
    """Return the relative standard deviation of a Frechet distance over sets of latents, by the jackknife.

    With d_i the distance of all generated images but those of group i of k, the variance of the distance is
    (k - 1) / k sum_i (d_i - mean d)^2 (Efron and Stein 1981, on groups). NaN where the distance is 0, or of
    fewer than 2 groups.
    """
    if len(groups.moments) < 2 or not distance:
        return float("nan")
    left = [frechet_distance(generated.without(group), real) for group in groups.moments]
    return float(((len(left) - 1) * pvariance(left)) ** 0.5 / distance)
