"""Images to measure, by number: those of a generator, and those of a set."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor, nn

from gan_dist.core import rng
from gan_dist.core.image_size import ImageSize
from gan_dist.data.batches.loader import Batch, to_batch
from gan_dist.data.shards.manifest import ImageSet
from gan_dist.models.generator import generate

BLOCK = 256
"""Latents drawn together: image i is the same for any number of images and on any rank."""


@dataclass(frozen=True)
class GeneratedImages:
    """Images of a generator by number: pure functions of the weights, the seed and the draw.

    The generator maps latents (n, latent_dim) and classes (n,) to images (n, C, H, W).
    """

    generator: nn.Module
    latent_dim: int
    resolution: int | str
    classes: Tensor | None
    """Frequency of each class, on any scale, (classes,)."""
    seed: int
    draw: int = 0
    """Number of this set of latents among those of the seed."""

    @torch.no_grad()
    def block(self, index: int, device: torch.device) -> Tensor:
        """Return images BLOCK * index to BLOCK * (index + 1) - 1, uint8 (BLOCK, C, H, W).

        Raises:
            NonFiniteError: a pixel is NaN or infinite.
        """
        latents = rng.normal((BLOCK, self.latent_dim), self.seed, "latents-eval", self.draw, index)
        named = f"the generated images {BLOCK * index} to {BLOCK * (index + 1) - 1}"
        labels = self._labels(index, device)
        return generate(self.generator, latents.to(device), labels, ImageSize.of(self.resolution).area, named)

    def _labels(self, index: int, device: torch.device) -> Tensor | None:
        if self.classes is None:
            return None
        draws = rng.uniform((BLOCK,), self.seed, "labels-eval", self.draw, index).double()
        ends = self.classes.cpu().double().cumsum(0)
        chosen = torch.searchsorted(ends / ends[-1], draws, right=True)
        return chosen.clamp(max=len(ends) - 1).to(device)


class RealImages:
    """Images of a set by number, in the order of its row groups, resized as `data.fit` says."""

    def __init__(self, images: ImageSet, resolution: int | str, fit: str = "crop") -> None:
        self._images = images
        self._fit = fit
        self._resolution = resolution
        self._starts = [0, *accumulate(images.group_rows)]
        self.total = self._starts[-1]
        self.group_rows = images.group_rows
        self.groups = range(len(images.group_rows))
        self.channels = images.manifest.channels
        self.fingerprint = images.manifest.fingerprint()
        self.classes = len(images.manifest.classes or ())

    def row_group(self, index: int) -> tuple[int, Batch]:
        """Return the number of a row group's first image, and the group."""
        rows = self._images.read_group(index)
        return self._starts[index], to_batch(rows, self._images, self._resolution, self._fit)

    def image(self, number: int) -> Tensor:
        """Return one image, uint8 (C, H, W)."""
        index = next(i for i in self.groups if number < self._starts[i + 1])
        first, batch = self.row_group(index)
        return batch.images[number - first]


def block_slices(start: int, stop: int) -> Iterator[tuple[int, slice]]:
    """Yield the blocks with images `start`, the first of a block, to `stop` - 1, and the slice of these."""
    for index in range(start // BLOCK, -(-stop // BLOCK)):
        yield index, slice(min(stop - BLOCK * index, BLOCK))
