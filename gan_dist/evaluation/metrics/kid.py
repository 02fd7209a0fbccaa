"""Kernel Inception Distance: a distance between two sets of features whose estimate has no bias."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gan_dist.evaluation.metrics.checks import check_pair

_SEED = 2020  # torch-fidelity's: with equal subsets, numbers are comparable to the last digits


@dataclass(frozen=True)
class Kid:
    """A Kernel Inception Distance."""

    mean: float
    """Mean over the subsets. Where the sets are equally distributed its expectation is 0, so that it may be
    slightly negative."""
    std: float
    """Population standard deviation over the subsets; not the error of the mean, for subsets overlap."""
    subsets: int
    """How many subsets were drawn."""
    subset_size: int
    """Rows of each set in a subset."""


def kid(real: Tensor, generated: Tensor, subsets: int = 100, subset_size: int = 1000) -> Kid:
    """Kernel Inception Distance (Binkowski et al. 2018, section 4) of features float32 (N, d) and (M, d).

    The mean, over random subsets, of the unbiased squared maximum mean discrepancy (Gretton et al. 2012,
    lemma 6) with the kernel (x.y / d + 1)^3. Computed in float64 on the device of the features, with
    memory for some (subset_size, subset_size) matrices.

    Subsets are those of torch-fidelity 0.4, whose `input1` are the generated images. Where a set has fewer
    rows than `subset_size`, that many are drawn instead.

    Raises:
        DataError: a set has fewer than 2 rows, the dimensions differ, or a value is not finite.
        ValueError: `subsets` is below 1 or `subset_size` below 2.
    """
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"{subsets} subsets of {subset_size} rows: there must be 1 of 2 at least")
    check_pair(real, generated, 2, "the Kernel Inception Distance")
    size = min(subset_size, len(real), len(generated))
    draws = np.random.RandomState(_SEED)

    def subset(features: Tensor) -> Tensor:
        chosen = draws.choice(len(features), size, replace=False)
        return features[torch.from_numpy(chosen).to(features.device)].double()

    values = torch.stack([_squared_mmd(subset(generated), subset(real)) for _ in range(subsets)])
    return Kid(values.mean().item(), values.std(correction=0).item(), subsets, size)


def _squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """The unbiased estimate from rows float64 (m, d) each; pairs of a row with itself do not count."""
    m = len(x)
    within = sum(kernel.sum() - kernel.trace() for kernel in (_kernel(x, x), _kernel(y, y)))
    return within / (m * (m - 1)) - 2 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    kernel = torch.addmm(torch.ones((), dtype=x.dtype, device=x.device), x, y.T, alpha=1 / x.shape[1])
    return kernel * kernel * kernel  # several times as fast as its power of 3
