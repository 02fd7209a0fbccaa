"""The Frechet distance between two sets of features, from their moments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from scipy.linalg.lapack import dpstrf
from torch import Tensor

from gan_dist.errors import DataError
from gan_dist.metrics.moments import Moments


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
    scale_a, scale_b = 1 / (a.count - 1), 1 / (b.count - 1)
    cross = torch.linalg.svdvals(_factor(a.m2) @ _factor(b.m2).T).sum() * (scale_a * scale_b) ** 0.5
    traces = a.m2.trace().cpu() * scale_a + b.m2.trace().cpu() * scale_b
    distance = (a.mean.cpu() - b.mean.cpu()).square().sum() + traces - 2 * cross
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
            "or the extractor, holds NaN or infinity; continue from an earlier checkpoint"
        )


def _factor(m2: Tensor) -> Tensor:
    """F, float64 (rank, d), with F^T F = m2: Cholesky's factorisation with complete pivoting, on the CPU.

    LAPACK's dpstrf stops where what is left is below d * eps of the largest variance: rounding.
    """
    # A symmetric matrix is its transpose, which is laid out as LAPACK wants it: nothing is copied.
    packed, pivots, rank, _info = dpstrf(m2.cpu().numpy().T, lower=1)
    factor = torch.from_numpy(packed.T)[:rank].triu_()
    return factor[:, np.argsort(pivots)]
