"""The Frechet distance between two sets of features, from their moments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from scipy.linalg import svdvals
from scipy.linalg.blas import dgemm
from scipy.linalg.lapack import dpstrf

from gan_dist.core.errors import DataError
from gan_dist.evaluation.metrics.moments import Moments

_Array = npt.NDArray[np.float64]


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Frechet distance between the Gaussians N(mean, covariance) of two sets of features; at least 0.

    |mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2): Dowson and Landau 1982, equation 4; the distance
    that Heusel et al. 2017 use in FID. Symmetric up to rounding, computed on the CPU in float64. Raises
    DataError for moments of fewer than 2 images, with a non-finite value, or of different dimensions.

    With S = L L^T for both, the last trace is the sum of the singular values of L_a^T L_b. Pivoting reveals
    the rank, so that N images of d > N features cost no more than N x N matrices and a feature that is
    always the same costs no digits. The eigenvalues of S_a S_b, which others take the roots of, are the
    squares of these singular values: all below 1e-16 of the largest, 1e-8 in the sum, would be rounding.
    """
    if a.mean.shape != b.mean.shape:
        raise DataError(
            f"cannot compare {len(a.mean)} features with {len(b.mean)}: use one extractor for both image sets"
        )
    for moments in (a, b):
        _require_usable(moments)
    m2_a, m2_b = a.m2.cpu().numpy(), b.m2.cpu().numpy()
    scale_a, scale_b = 1 / (a.count - 1), 1 / (b.count - 1)
    cross = svdvals(_product(m2_a, m2_b), overwrite_a=True, check_finite=False).sum()
    traces = m2_a.trace() * scale_a + m2_b.trace() * scale_b
    difference = (a.mean - b.mean.to(a.mean.device)).square().sum()
    distance = float(difference) + traces - 2 * cross * (scale_a * scale_b) ** 0.5
    return max(0.0, float(distance))  # rounding leaves about -1e-15 of the trace where the sets are equal


def extrapolate(counts: Sequence[int], distances: Sequence[float]) -> float:
    """The distance that infinitely many images would have: FD-infinity (Chong and Forsyth 2020, section 3).

    A distance of N images is too large by about c / N, with a c that differs between generators. `distances`
    at several `counts` are fitted by a straight line in 1/N, whose value at 0 this is; noise can make it
    negative. Raises ValueError for fewer than two different counts.
    """
    if len(set(counts)) < 2:
        raise ValueError(f"a line needs distances at two counts or more, not at {list(counts)}")
    _slope, intercept = np.polyfit(1 / np.asarray(counts, dtype=np.float64), np.asarray(distances), 1)
    return float(intercept)


def bias_warning(count: int, dim: int) -> str | None:
    """A sentence on why `count` images are too few for a distance of `dim` features, or None."""
    if count >= dim:
        return None
    return (
        f"{count} images are fewer than the extractor's {dim} features: their covariance has rank "
        f"{count - 1} at most and the distance is biased upwards by a lot; use {dim} or more images "
        f"(papers use 50,000), and compare at equal numbers only"
    )


def _require_usable(moments: Moments) -> None:
    if moments.count < 2:
        raise DataError(
            f"a covariance needs at least 2 images and there are {moments.count}: give more images"
        )
    if not (moments.mean.sum() + moments.m2.sum()).isfinite():  # what is not finite stays so in a sum
        raise DataError(
            f"the features of {moments.count} images are not all finite: the network that made the images, "
            "or the extractor, holds NaN or infinity",
            "an earlier checkpoint may be whole",
        )


def _product(m2_a: _Array, m2_b: _Array) -> _Array:
    """F_a F_b^T of F^T F = m2, float64 (rank of a, rank of b).

    All of it by SciPy's BLAS and LAPACK: two libraries' threads, waiting for work in turns, take each
    other's cores.
    """
    factor_a, order_a = _factor(m2_a)
    factor_b, order_b = _factor(m2_b)
    factor_a = factor_a[:, np.argsort(order_a)[order_b]]  # the features in the order that b's have
    return dgemm(1.0, factor_a.T, factor_b.T, trans_a=1)  # type: ignore[no-any-return]


def _factor(m2: _Array) -> tuple[_Array, _Array]:
    """F, float64 (rank, d), and an order with F^T F = m2[order][:, order]: Cholesky with complete pivoting.

    LAPACK's dpstrf stops where what is left is below d * eps of the largest variance: rounding.
    """
    # A symmetric matrix is its transpose, which is laid out as LAPACK wants it.
    packed, pivots, rank, _info = dpstrf(m2.T, lower=1)
    return np.triu(packed.T[:rank]), pivots - 1
