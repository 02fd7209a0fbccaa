"""Distances between two sets of features: Frechet (as in FID) from their moments, kernel (KID) from rows."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from gan_dist.evaluation.metrics.checks import check_pair, check_same_dim
from gan_dist.evaluation.metrics.moments import Moments

_KID_SEED = 2020  # torch-fidelity's: with equal subsets, numbers are comparable to the last digits

_Array = npt.NDArray[np.float64]


def frechet_distance(a: Moments, b: Moments) -> float:
    """Return the squared Frechet distance, >= 0, between the Gaussians N(mean, covariance) of two sets.

    |mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2): Dowson and Landau 1982; the distance
    that Heusel et al. 2017 use in FID. Symmetric up to rounding, computed on the CPU in float64.

    With S = L L^T for both, the last trace is the sum of the singular values of L_a^T L_b. Pivoting reveals
    the rank, so that N images of d > N features cost no more than N x N matrices and a constant feature costs
    no digits. The usual way takes the roots of the eigenvalues of S_a S_b, which are the squares of these
    singular values: all below 1e-16 of the largest, 1e-8 in the sum, would be rounding.

    Raises:
        DataError: a set has fewer than 2 images or a value that is not finite, or the dimensions differ.
    """
    from scipy.linalg import svdvals  # a second, of which the start of a run is spared

    check_same_dim(len(a.mean), len(b.mean))
    for moments in (a, b):
        moments.require_usable()
    m2_a, m2_b = a.m2.cpu().numpy(), b.m2.cpu().numpy()
    scale_a, scale_b = 1 / (a.count - 1), 1 / (b.count - 1)
    cross = svdvals(_product(m2_a, m2_b), overwrite_a=True, check_finite=False).sum()
    traces = m2_a.trace() * scale_a + m2_b.trace() * scale_b
    difference = (a.mean - b.mean.to(a.mean.device)).square().sum()
    distance = float(difference) + traces - 2 * cross * (scale_a * scale_b) ** 0.5
    return max(0.0, float(distance))  # rounding leaves about -1e-15 of the trace where the sets are equal


def extrapolate(counts: Sequence[int], distances: Sequence[float]) -> float:
    """Return the distance of infinitely many images: FD-infinity (Chong and Forsyth 2020, section 3).

    A distance of N images is too large by about c / N, with a c that differs between generators. This fits a
    straight line in 1/N to `distances` at several `counts` and returns its value at 0, which noise can make
    negative. Raises ValueError for fewer than two different counts.
    """
    if len(set(counts)) < 2:
        raise ValueError(f"a line needs distances at two counts or more, not at {list(counts)}")
    _slope, intercept = np.polyfit(1 / np.asarray(counts, dtype=np.float64), np.asarray(distances), 1)
    return float(intercept)


def bias_warning(count: int, dim: int) -> str | None:
    """Return a warning where `count` images are too few for a Frechet distance of `dim` features, or None."""
    if count >= dim:
        return None
    return (
        f"{count} images are fewer than the extractor's {dim} features: their covariance has rank "
        f"{count - 1} at most and the distance is biased upwards by a lot; use {dim} or more images "
        f"(papers use 50,000), and compare at equal numbers only"
    )


def kid(real: Tensor, generated: Tensor, subsets: int = 100, subset_size: int = 1000) -> Tensor:
    """Return the Kernel Inception Distance of each subset of features float32 (N, d) and (M, d).

    Binkowski et al. 2018, section 4: KID is the mean over random subsets of the unbiased squared maximum mean
    discrepancy (Gretton et al. 2012, lemma 6) with the kernel (x.y / d + 1)^3. Its expectation is 0 where the
    sets are equally distributed, so that it may be slightly negative. Computed in float64 on the device of
    the features, with memory for some (subset_size, subset_size) matrices.

    Subsets are those of torch-fidelity 0.4, with the generated images as its `input1`. Where a set has fewer
    rows than `subset_size`, a subset has that many. The result is float64 (subsets,).

    Raises:
        DataError: a set has fewer than 2 rows, the dimensions differ, or a value is not finite.
        ValueError: `subsets` is below 1 or `subset_size` below 2.
    """
    if subsets < 1 or subset_size < 2:
        raise ValueError(f"{subsets} subsets of {subset_size} rows: there must be 1 of 2 at least")
    check_pair(real, generated, 2, "the Kernel Inception Distance")
    size = min(subset_size, len(real), len(generated))
    draws = np.random.RandomState(_KID_SEED)

    def subset(features: Tensor) -> Tensor:
        chosen = draws.choice(len(features), size, replace=False)
        return features[torch.from_numpy(chosen).to(features.device)].double()

    return torch.stack([_squared_mmd(subset(generated), subset(real)) for _ in range(subsets)])


def _squared_mmd(x: Tensor, y: Tensor) -> Tensor:
    """Return the unbiased estimate from rows float64 (m, d) each; pairs of a row with itself do not count."""
    m = len(x)
    within = sum(kernel.sum() - kernel.trace() for kernel in (_kernel(x, x), _kernel(y, y)))
    return within / (m * (m - 1)) - 2 * _kernel(x, y).mean()


def _kernel(x: Tensor, y: Tensor) -> Tensor:
    kernel = torch.addmm(torch.ones((), dtype=x.dtype, device=x.device), x, y.T, alpha=1 / x.shape[1])
    return kernel * kernel * kernel  # several times as fast as its power of 3


def _product(m2_a: _Array, m2_b: _Array) -> _Array:
    """Return F_a F_b^T, float64 (rank of a, rank of b), with F^T F = m2."""
    from scipy.linalg.blas import dgemm

    # By SciPy's BLAS and LAPACK alone: a second library's waiting threads would take the first one's cores.
    factor_a, order_a = _factor(m2_a)
    factor_b, order_b = _factor(m2_b)
    factor_a = factor_a[:, np.argsort(order_a)[order_b]]  # the features in the order of b's
    return dgemm(1.0, factor_a.T, factor_b.T, trans_a=1)  # type: ignore[no-any-return]


def _factor(m2: _Array) -> tuple[_Array, _Array]:
    """Return F, float64 (rank, d), and an order with F^T F = m2[order][:, order]: pivoted Cholesky."""
    from scipy.linalg.lapack import dpstrf

    # dpstrf stops where the remainder is below d * eps of the largest variance: rounding. A symmetric matrix
    # is its transpose, which has the layout that LAPACK expects.
    packed, pivots, rank, _info = dpstrf(m2.T, lower=1)
    return np.triu(packed.T[:rank]), pivots - 1
