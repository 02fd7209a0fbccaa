"""Input of the discriminator: real and generated images alike, augmented, with instance noise.

The augmentations draw no random numbers: they take uniform numbers, one row for each image, and the change of
an image depends on its own row alone. So the augmentation of a part of a batch equals that part of the
augmented batch, to the last bit. For this the parameters are computed in float64 too, since PyTorch's
elementary functions may differ in the last bit between positions in a batch.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from gan_dist.config import DataConfig, LossConfig, OptimConfig
from gan_dist.training.augment import ada
from gan_dist.training.noise import StepNoise
from gan_dist.training.schedule import augment_p, instance_noise
from gan_dist.training.state import TrainingState


@dataclass(frozen=True)
class DiscriminatorInput:
    """Augments images as `data.augment` says and adds instance noise as `loss.instance_noise` says."""

    data: DataConfig
    loss: LossConfig
    optim: OptimConfig
    state: TrainingState
    noise: StepNoise

    def __call__(self, images: Tensor, *names: str, micro_batch: int) -> Tensor:
        """Return images (n, C, R, R) as the discriminator's input; the same tensor if nothing changes.

        Args:
            images: Float; with several names, as many equal parts one after the other.
            names: Of each part, such as `reals-d`; each name has random numbers of its own, so parts that
                are passed together come out as if each were passed alone.
            micro_batch: Index of the micro-batch.
        """
        seen = self.state.images
        columns, augment = build(self.data.augment)
        if columns:
            draws = [self.noise.uniform(f"augment-{name}", (columns,), micro_batch) for name in names]
            p = augment_p(self.data, self.optim, self.state.augment.p, seen)
            images = augment(images, torch.cat(draws), p)
        if sigma := instance_noise(self.loss, seen):
            shape = tuple(images.shape[1:])
            noise = [self.noise.normal(f"noise-{name}", shape, micro_batch) for name in names]
            images = images + sigma * torch.cat(noise)
        return images


class Augmentation(NamedTuple):
    """An augmentation by name."""

    columns: int
    """Uniform numbers for each image."""
    apply: Callable[[Tensor, Tensor, float | Tensor], Tensor]
    """Images (B, C, H, W), draws (B, columns) and the strength p, which DiffAugment ignores, to images."""


def build(name: Literal["none", "diffaugment", "ada"]) -> Augmentation:
    """Return the augmentation of a name; "none" returns the same images."""
    match name:
        case "none":
            return Augmentation(0, lambda images, draws, p: images)  # noqa: ARG005
        case "diffaugment":
            return Augmentation(DIFFAUGMENT_COLUMNS, lambda images, draws, p: diffaugment(images, draws))  # noqa: ARG005
        case "ada":
            return Augmentation(ada.COLUMNS, ada.augment)


DIFFAUGMENT_COLUMNS = 7
"""Numbers for each image: brightness, saturation, contrast, translation (x, y), cutout (x, y)."""


def diffaugment(images: Tensor, draws: Tensor) -> Tensor:
    """DiffAugment with its three policies, colour, translation and cutout: Zhao et al. 2020.

    Every image gets, in this order: brightness, a shift of all values by U(-0.5, 0.5); saturation, the
    distance of each pixel to the mean of its channels times U(0, 2); contrast, the distance of each value to
    the mean of the image times U(0.5, 1.5); a translation by a whole number of pixels, up to 1/8 of the size
    each way, with zeros (mid-grey) moving in; and a square of half the size set to zero, its centre uniform
    over the image, so that it may stick out of it. Saturation leaves a single channel alone.

    Args:
        images: Float (B, C, H, W) around [-1, 1], any C and memory format; twice differentiable.
        draws: Float (B, DIFFAUGMENT_COLUMNS) uniform in [0, 1), on any device.

    Returns:
        Images of the same shape, type and device, not clamped.
    """
    draws = draws.to(images.device, torch.float64)
    colour = (draws[:, :3] + draws.new_tensor([-0.5, 0, 0.5])).to(images)
    brightness, saturation, contrast = colour.view(-1, 3, 1, 1, 1).unbind(1)
    images = images + brightness
    grey = images.mean(1, keepdim=True)
    images = (images - grey) * (2 * saturation) + grey
    # In float64, so that the order of so long a sum, which depends on the batch, does not show.
    level = images.mean((1, 2, 3), keepdim=True, dtype=torch.float64).to(images)
    images = (images - level) * contrast + level
    images = _translate(images, draws[:, 3], draws[:, 4])
    return _cut_out(images, draws[:, 5], draws[:, 6])


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
