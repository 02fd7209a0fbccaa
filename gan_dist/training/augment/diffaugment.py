"""DiffAugment: differentiable augmentation of every image (Zhao et al. 2020)."""

from __future__ import annotations

import torch
from torch import Tensor

from gan_dist.config import DataConfig, Section
from gan_dist.config.augment import DIFFAUGMENT
from gan_dist.training.augment.base import Augmentation

COLUMNS = 7
"""Numbers for each image: brightness, saturation, contrast, translation (x, y), cutout (x, y)."""


class DiffAugment(Augmentation):
    """`data.augment=diffaugment`, or some of its policies: Zhao et al. 2020.

    Every image gets those that were chosen, in this order; its numbers do not depend on the choice:

    - `color`: brightness, a shift of all values by U(-0.5, 0.5); saturation, the distance of each pixel to
      the mean of its channels times U(0, 2); contrast, the distance of each value to the mean of the image
      times U(0.5, 1.5). Saturation leaves a single channel alone; of four channels the last is alpha, which
      stays as it is.
    - `translation`: by a whole number of pixels, up to 1/8 of the height or width each way, with zeros
      (mid-grey) moving in.
    - `cutout`: a part of half the height and half the width set to zero, its centre uniform over the image,
      so that it may stick out of it.

    Images that it returns are not clamped.
    """

    def __init__(self, data: DataConfig, settings: Section) -> None:
        super().__init__(data, settings)
        self._policies = DIFFAUGMENT if isinstance(data.augment, str) else data.augment["diffaugment"]

    def columns(self, shape: tuple[int, int, int]) -> int:
        return COLUMNS

    def __call__(self, images: Tensor, draws: Tensor, p: float | Tensor) -> Tensor:
        draws = draws.to(images.device, torch.float64)
        if "color" in self._policies:
            images = _recolour(images, draws)
        if "translation" in self._policies:
            images = _translate(images, draws[:, 3], draws[:, 4])
        if "cutout" in self._policies:
            images = _cut_out(images, draws[:, 5], draws[:, 6])
        return images


def _recolour(images: Tensor, draws: Tensor) -> Tensor:
    if images.shape[1] == 4:
        return torch.cat([_recolour(images[:, :3], draws), images[:, 3:]], 1)
    colour = (draws[:, :3] + draws.new_tensor([-0.5, 0, 0.5])).to(images)
    brightness, saturation, contrast = colour.view(-1, 3, 1, 1, 1).unbind(1)
    images = images + brightness
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (2 * saturation) + grey
    # In float64, so that the order of so long a sum, which depends on the batch, does not show.
    level = images.mean((1, 2, 3), keepdim=True, dtype=torch.float64).to(images)
    return (images - level) * contrast + level


def _translate(images: Tensor, draws_x: Tensor, draws_y: Tensor) -> Tensor:
    for dim, draws in ((2, draws_y), (3, draws_x)):
        size = images.shape[dim]
        most = size // 8
        shift = (draws * (2 * most + 1)).floor().long() - most
        source = torch.arange(size, device=images.device) - shift[:, None]
        source = source[:, None, :, None] if dim == 2 else source[:, None, None, :]
        moved = images.gather(dim, source.clamp(0, size - 1).expand_as(images))
        images = torch.where((source >= 0) & (source < size), moved, 0)
    return images


def _cut_out(images: Tensor, draws_x: Tensor, draws_y: Tensor) -> Tensor:
    height, width = images.shape[2:]
    rows, columns = _covered(draws_y, height), _covered(draws_x, width)
    return torch.where(rows[:, None, :, None] & columns[:, None, None, :], 0, images)


def _covered(draws: Tensor, size: int) -> Tensor:
    """Return whether the cutout covers a row or column, bool (B, size)."""
    side = size // 2
    # An even side has its centre between pixels, or at either border.
    start = (draws * (size + 1 - side % 2)).floor().long() - side // 2
    place = torch.arange(size, device=draws.device) - start[:, None]
    return (place >= 0) & (place < side)
