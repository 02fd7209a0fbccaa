"""How far apart images are: the simplest sign of a generator that has collapsed."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor


class PixelSpread:
    """The root mean squared distance between two images of a set, from sums over its images.

    E|x - y|^2 = 2 (E|x|^2 - |E x|^2) for independent x and y of the same set. The sums are of whole numbers
    below 2^53, and so exact: in whatever order and on however many ranks they are taken.

    Args:
        pixels: Values of an image, C * H * W.
        device: Where to sum.
    """

    def __init__(self, pixels: int, device: torch.device) -> None:
        self.sums = torch.zeros(2 + pixels, dtype=torch.float64, device=device)
        """float64 (2 + C*H*W,): number of images, sum of their squares, sums of each pixel."""

    def update(self, images: Tensor) -> None:
        """Add images uint8 (B, C, H, W)."""
        values = images.flatten(1).double()
        self.sums[0] += len(values)
        self.sums[1] += values.square().sum()
        self.sums[2:] += values.sum(0)

    def merge(self, other: PixelSpread) -> None:
        """Add the images that `other` has seen."""
        self.sums += other.sums.to(self.sums.device)

    def all_reduce(self) -> None:
        """Add up the images of all ranks, on every rank."""
        if dist.is_initialized():
            dist.all_reduce(self.sums)

    @property
    def distance(self) -> float:
        """The root mean squared distance, in grey levels; NaN where there is no image."""
        square, mean = self.sums[1] / self.sums[0], self.sums[2:] / self.sums[0]
        return float((2 * (square - mean.square().sum())).clamp(min=0).sqrt())
