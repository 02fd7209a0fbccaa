"""Input of the discriminator: real and generated images alike, augmented, with instance noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gan_dist.config import DataConfig, LossConfig, OptimConfig
from gan_dist.config.augment import AugmentChoice
from gan_dist.training.augment.ada import Ada
from gan_dist.training.augment.base import Augmentation, Unchanged
from gan_dist.training.augment.diffaugment import DiffAugment
from gan_dist.training.noise import StepNoise
from gan_dist.training.schedule import augment_p, instance_noise
from gan_dist.training.state import TrainingState

BGC = ("flip", "turn", "shift", "geom", "color")
"""Transforms of `data.augment=ada`: the paper's pipeline of that name, blitting, geometry and colour."""


@dataclass(frozen=True)
class DiscriminatorInput:
    """Augments images as `data.augment` says and adds instance noise as `loss.instance_noise` says."""

    data: DataConfig
    loss: LossConfig
    optim: OptimConfig
    state: TrainingState
    noise: StepNoise

    @cached_property
    def augmentation(self) -> Augmentation:
        """The augmentation of `data.augment`."""
        return build(self.data.augment)

    def __call__(self, images: Tensor, *names: str, micro_batch: int) -> Tensor:
        """Return images (n, C, R, R) as the discriminator's input; the same tensor if nothing changes.

        Args:
            images: Float; with several names, as many equal parts one after the other.
            names: Of each part, such as `reals-d`; each name has random numbers of its own, so parts that
                are passed together come out as if each were passed alone.
            micro_batch: Index of the micro-batch.
        """
        seen = self.state.images
        channels, height, width = images.shape[1:]
        if columns := self.augmentation.columns((channels, height, width)):
            draws = [self.noise.uniform(f"augment-{name}", (columns,), micro_batch) for name in names]
            p = augment_p(self.data, self.optim, self.state.augment.p, seen)
            images = self.augmentation(images, torch.cat(draws), p)
        if sigma := instance_noise(self.loss, seen):
            shape = tuple(images.shape[1:])
            noise = [self.noise.normal(f"noise-{name}", shape, micro_batch) for name in names]
            images = images + sigma * torch.cat(noise)
        return images


def build(choice: AugmentChoice) -> Augmentation:
    """Return the augmentation of a value of `data.augment`."""
    match choice:
        case "none":
            return Unchanged()
        case "diffaugment":
            return DiffAugment()
        case "ada":
            return Ada(dict.fromkeys(BGC, 1.0), filtered=False)
        case {"diffaugment": policies}:
            return DiffAugment(policies)
        case {"ada": transforms}:
            return Ada(transforms if isinstance(transforms, dict) else dict.fromkeys(transforms, 1.0))
    raise ValueError(f"{choice!r} is no value of data.augment")
