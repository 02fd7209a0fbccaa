"""The interface of feature extractors, and helpers of the package's own ones."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from gan_dist.core.errors import DataError, NonFiniteError

BUILT_IN = ("digits", "inception", "random")
"""Names of the extractors that are part of the package."""


class Features(NamedTuple):
    """Output of an extractor for a batch, on the extractor's device."""

    features: Tensor
    """float32 (B, dim)."""
    logits: Tensor | None
    """float32 (B, classes), or None if the extractor is no classifier."""


class Extractor(Protocol):
    """A fixed network from images to features; only distances of equal extractors can be compared."""

    name: str
    """One of `BUILT_IN`, or the name of a user's extractor."""
    metric: str
    """Name of its Frechet distance: `fid` with the network and the weights of FID, else `fd_<name>`."""
    dim: int
    """Number of features."""
    classes: int
    """Number of logits; 0 if the extractor is no classifier."""
    hash: str
    """SHA-256 of the weights, or of whatever else defines the extractor, hexadecimal."""
    layer: str
    """Layer of the network that the features are taken from."""
    resize: str
    """Method that resizes images for the network, and the edge in pixels."""

    def __call__(self, images: Tensor) -> Features:
        """Return the features of images uint8 (B, C, H, W) on any device."""


def check_images(images: Tensor, extractor: str, *, smallest: int = 1) -> None:
    """Refuse images that an extractor of the package cannot process.

    Raises:
        TypeError: they are not uint8.
        DataError: they are not (B, 1 or 3, H, W), or an edge is shorter than `smallest` pixels.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images are {images.dtype}, not torch.uint8")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(
            f"the {extractor} extractor takes images (B, 1 or 3, H, W), not {tuple(images.shape)}",
            "use images of 1 or 3 channels, or another eval.extractor",
            keys=("eval.extractor",),
        )
    if min(images.shape[2:]) < smallest:
        raise DataError(
            f"the {extractor} extractor takes images of {smallest}x{smallest} pixels or more, not "
            f"{images.shape[2]}x{images.shape[3]}",
            "raise data.resolution, or use another eval.extractor",
            keys=("data.resolution", "eval.extractor"),
        )


def require_finite(features: Tensor, where: str) -> None:
    """Raise NonFiniteError if a feature of (B, dim) is NaN or infinite; waits once for the device.

    `where` names the images for the error, such as `generated images 512 to 767`.
    """
    finite = features.isfinite()
    if finite.all():
        return
    rows = int((~finite).any(dim=1).sum())
    what = "NaN" if features.isnan().any() else "infinity"
    raise NonFiniteError(
        f"the features of {where} hold {what}, in {rows} of {len(features)} images: the weights or the "
        "arithmetic of the extractor are not finite",
        "look at eval.extractor",
        keys=("eval.extractor",),
    )


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Compute without gradients, repeatably, in float32 that is not rounded to TF32 or to autocast's type.

    Training may have allowed such rounding, and scores must not depend on it. On exit the process has its
    earlier settings again.
    """
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with (
            torch.no_grad(),
            torch.autocast(device.type, enabled=False),
            torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        ):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)
