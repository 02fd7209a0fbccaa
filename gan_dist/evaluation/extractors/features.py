"""What turns images into the features whose distributions are compared, and what all extractors need."""

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
    """What an extractor says of a batch, on its device."""

    features: Tensor
    """float32 (B, dim)."""
    logits: Tensor | None
    """float32 (B, classes), or None where there is no classifier."""


class Extractor(Protocol):
    """A fixed network; distances are comparable between equal extractors only."""

    @property
    def name(self) -> str:
        """One of `BUILT_IN`, or that of a user's own."""

    @property
    def metric(self) -> str:
        """Name of its Frechet distance: `fid` with the network and the weights of FID, else `fd_<name>`."""

    @property
    def dim(self) -> int:
        """Number of features."""

    @property
    def classes(self) -> int:
        """Number of classes that the logits are of; 0 where there is no classifier."""

    @property
    def hash(self) -> str:
        """SHA-256 of the weights, or of what else defines it, hexadecimal."""

    @property
    def layer(self) -> str:
        """Which of the network's layers the features are."""

    @property
    def resize(self) -> str:
        """How images get the size that the network takes: a method and an edge in pixels."""

    def __call__(self, images: Tensor) -> Features:
        """Return what it says of images uint8 (B, C, H, W), from any device."""


def check_images(images: Tensor, extractor: str, *, smallest: int = 1) -> None:
    """Refuse images that a built-in extractor cannot take.

    Raises:
        TypeError: they are not uint8.
        DataError: they are not (B, 1 or 3, H, W), or an edge is shorter than `smallest` pixels.
    """
    if images.dtype != torch.uint8:
        raise TypeError(f"images are {images.dtype}, not torch.uint8")
    if images.ndim != 4 or images.shape[1] not in (1, 3):
        raise DataError(
            f"the {extractor} extractor takes images (B, 1 or 3, H, W), not {tuple(images.shape)}: "
            "use images of 1 or 3 channels, or another eval.extractor"
        )
    if min(images.shape[2:]) < smallest:
        raise DataError(
            f"the {extractor} extractor takes images of {smallest}x{smallest} pixels or more, not "
            f"{images.shape[2]}x{images.shape[3]}: raise data.resolution, or use another eval.extractor"
        )


def require_finite(features: Tensor, where: str) -> None:
    """Refuse features (B, dim) that are not numbers; waits once for the device.

    `where` says which images they are of, such as `generated images 512 to 767`. Raises NonFiniteError.
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
    )


@contextmanager
def exact(device: torch.device) -> Iterator[None]:
    """Compute without gradients, repeatably, in float32 that is not rounded to TF32 or to autocast's type.

    Training may have allowed that, and scores must not depend on it. Afterwards the process's settings are as
    they were.
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
