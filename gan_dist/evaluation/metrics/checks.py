"""Checks of features, and of the numbers of their images, before a score is computed from them."""

from __future__ import annotations

from torch import Tensor

from gan_dist.core.errors import DataError


def check_finite(values: Tensor, what: str = "features", count: int | None = None) -> None:
    """Raise DataError if a value of `count` images, len(values) when absent, is NaN or infinite."""
    if not values.isfinite().all():
        raise DataError(
            f"the {what} of {len(values) if count is None else count} images are not all finite: the network "
            "that made the images, or the extractor, holds NaN or infinity",
            "use an earlier checkpoint",
        )


def check_same_dim(a: int, b: int) -> None:
    """Raise DataError if two sets have different numbers of features."""
    if a != b:
        raise DataError(f"cannot compare {a} features with {b}", "use one extractor for both image sets")


def check_pair(real: Tensor, generated: Tensor, needed: int, score: str) -> None:
    """Check the features (N, d) and (M, d) of two image sets that `score` compares.

    Raises DataError if the dimensions differ, a set has fewer than `needed` rows or a value is not finite,
    ValueError if a set is not a matrix.
    """
    if real.ndim != 2 or generated.ndim != 2:
        raise ValueError(f"features are {tuple(real.shape)} and {tuple(generated.shape)}, not (N, d), (M, d)")
    check_same_dim(real.shape[1], generated.shape[1])
    if min(len(real), len(generated)) < needed:
        raise DataError(
            f"{score} needs at least {needed} images of each kind, and there are {len(real)} real and "
            f"{len(generated)} generated",
            "give more images",
        )
    check_finite(real)
    check_finite(generated)


def check_batch(indices: Tensor, rows: Tensor, width: int, count: int) -> None:
    """Raise ValueError unless rows are (B, width) and indices, their numbers, int64 (B,) in 0..count-1."""
    if rows.ndim != 2 or rows.shape[1] != width or indices.shape != rows.shape[:1]:
        raise ValueError(
            f"indices {tuple(indices.shape)} and rows {tuple(rows.shape)} are not (B,), (B, {width})"
        )
    if len(indices) and not (indices.min() >= 0 and indices.max() < count):
        raise ValueError(f"indices {indices.min()} to {indices.max()} are not in 0..{count - 1}")
