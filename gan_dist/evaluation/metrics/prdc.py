"""Fidelity and diversity as separate scores: precision and recall, density and coverage.

All compare balls around features, whose radius is the distance to the k-th nearest neighbour. The neighbours
of a row are the other rows of its own set; a copy of the row is one of them.

Squared distances are expanded, |x|^2 + |y|^2 - 2 x.y, for the speed of a matrix product, in float64 and about
the real features' mean. Two distances within the rounding error count as equal, as they are where images are
repeated; so balls with and without their surface are what the definitions say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gan_dist.evaluation.metrics.checks import check_pair

_PAIRS = 2**22  # distances computed at once: 32 MiB, and some temporaries of that size
_ROUNDING = 1e-12  # of |x|^2 + |y|^2; the error of a squared distance is hundreds of times smaller


@dataclass(frozen=True)
class PrecisionRecall:
    """Shares in 0..1; more is better."""

    precision: float
    """Share of generated images that lie among the real ones: fidelity."""
    recall: float
    """Share of real images that lie among the generated ones: diversity."""


@dataclass(frozen=True)
class DensityCoverage:
    """Scores that outliers, which widen the balls, affect less than precision and recall."""

    density: float
    """Number of real images' balls around a generated image, over the k expected of an ideal generator; it
    may exceed 1."""
    coverage: float
    """Share of real images, 0..1, with a generated image nearer than their k-th real neighbour; from as many
    images an ideal generator's is about 1 - 2^-k."""


def precision_recall(real: Tensor, generated: Tensor, neighbours: int = 3) -> PrecisionRecall:
    """Return precision and recall of features float32 (N, d), (M, d): Kynkaanniemi et al. 2019, eqs. 1, 2.

    An image lies among those of the other set if for one of them, x, its distance to x is at most (<=) that
    of x to its k-th nearest neighbour, k = `neighbours`. Time O((N + M)^2 d) on the features' device, memory
    O((N + M) d) besides blocks of rows.

    Raises:
        DataError: a set has not more rows than `neighbours`, the dimensions differ, or a value is not finite.
    """
    real, generated = _prepared(real, generated, neighbours)
    real_radii, generated_radii = _squared_radii(real, neighbours), _squared_radii(generated, neighbours)
    precise = torch.zeros(len(generated), dtype=torch.bool, device=generated.device)
    recalled = 0
    for block, squares, rounding in _squared_distances(real, generated):
        least = squares - rounding
        precise |= (least <= real_radii[block, None]).any(0)
        recalled += int((least <= generated_radii).any(1).sum())
    return PrecisionRecall(int(precise.sum()) / len(generated), recalled / len(real))


def density_coverage(real: Tensor, generated: Tensor, neighbours: int = 5) -> DensityCoverage:
    """Return density and coverage of features float32 (N, d), (M, d): Naeem et al. 2020, section 3.

    The ball of a real image x holds the images whose distance to x is below (<) that of x to its k-th
    nearest neighbour, k = `neighbours`: open, as in the authors' code, where the paper does not say. So the
    real images themselves have a density of 1. Time O(N (N + M) d) on the features' device, memory
    O((N + M) d) besides blocks of rows.

    Raises:
        DataError: a set has not more rows than `neighbours`, the dimensions differ, or a value is not finite.
    """
    real, generated = _prepared(real, generated, neighbours)
    radii = _squared_radii(real, neighbours)
    inside = covered = 0
    for block, squares, rounding in _squared_distances(real, generated):
        held = squares + rounding < radii[block, None]
        inside += int(held.sum())
        covered += int(held.any(1).sum())
    return DensityCoverage(inside / (neighbours * len(generated)), covered / len(real))


def _prepared(real: Tensor, generated: Tensor, neighbours: int) -> tuple[Tensor, Tensor]:
    if neighbours < 1:
        raise ValueError(f"{neighbours} nearest neighbours: there must be 1 at least")
    check_pair(real, generated, neighbours + 1, f"a score by {neighbours} nearest neighbours")
    mean = real.double().mean(0)
    return real.double() - mean, generated.double() - mean


def _squared_radii(features: Tensor, neighbours: int) -> Tensor:
    radii = []
    for block, squares, _ in _squared_distances(features, features):
        squares.diagonal(block.start).fill_(torch.inf)
        radii.append(squares.topk(neighbours, largest=False).values[:, -1])
    return torch.cat(radii)


def _squared_distances(x: Tensor, y: Tensor) -> Iterator[tuple[slice, Tensor, Tensor]]:
    """Yield rows of `x`, squared distances to `y`, float64 (rows, len(y)), and bounds on their errors."""
    x_norms, y_norms = x.square().sum(1), y.square().sum(1)
    step = max(1, _PAIRS // len(y))
    for start in range(0, len(x), step):
        block = slice(start, min(start + step, len(x)))
        norms = x_norms[block, None] + y_norms
        yield block, torch.addmm(norms, x[block], y.T, alpha=-2), norms * _ROUNDING
