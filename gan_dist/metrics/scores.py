"""Scores computed from the moments of features."""

from __future__ import annotations

import torch
from torch import Tensor

from gan_dist.errors import DataError
from gan_dist.metrics.moments import Moments


def frechet_distance(a: Moments, b: Moments) -> float:
    """Squared Frechet distance between the Gaussians N(mean, covariance) of two sets of features; at least 0.

    |mu_a - mu_b|^2 + tr S_a + tr S_b - 2 tr (S_a S_b)^(1/2): Dowson and Landau 1982; the distance that
    Heusel et al. 2017 use in FID. Symmetric up to rounding, computed on the CPU in float64. Raises DataError
    for moments of fewer than 2 images, with a non-finite value, or of different dimensions.

    The last trace is the sum of the singular values of S_a^(1/2) S_b^(1/2). They keep full accuracy where a
    covariance is singular (fewer images than features, a dead feature). The eigenvalues of S_a S_b are
    their squares, and all below 1e-16 of the largest, 1e-8 in the sum, would be rounding.
    """
    if a.mean.shape != b.mean.shape:
        raise DataError(
            f"cannot compare {len(a.mean)} features with {len(b.mean)}: use one extractor for both image sets"
        )
    mean_a, cov_a = _gaussian(a)
    mean_b, cov_b = _gaussian(b)
    cross = torch.linalg.svdvals(_root(cov_a).T @ _root(cov_b)).sum()
    distance = (mean_a - mean_b).square().sum() + cov_a.trace() + cov_b.trace() - 2 * cross
    return max(0.0, float(distance))  # rounding leaves about -1e-15 of the trace where the sets are equal


def _gaussian(moments: Moments) -> tuple[Tensor, Tensor]:
    mean, covariance = moments.mean.cpu(), moments.covariance().cpu()
    if not (mean.isfinite().all() and covariance.isfinite().all()):
        raise DataError(
            f"the features of {moments.count} images are not all finite: the network that made the images, "
            "or the extractor, holds NaN or infinity; continue from an earlier checkpoint"
        )
    return mean, covariance


def _root(covariance: Tensor) -> Tensor:
    """R, float64 (d, d), with R R^T = covariance."""
    eigenvalues, vectors = torch.linalg.eigh(covariance)
    # What is below rounding of the largest eigenvalue is zero plus noise, and its root would not be small.
    noise = eigenvalues[-1] * len(eigenvalues) * torch.finfo(torch.float64).eps
    root: Tensor = vectors * torch.where(eigenvalues > noise, eigenvalues, 0.0).sqrt()
    return root
