"""Input of the discriminator: real and generated images alike, augmented, with instance noise."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import cast

import torch
from torch import Tensor

from gan_dist.config import DataConfig, LossConfig, OptimConfig
from gan_dist.config.augment import augment_name
from gan_dist.config.settings import read_settings
from gan_dist.core.import_path import is_import_path, load_subclass
from gan_dist.training.augment.ada import Ada
from gan_dist.training.augment.base import Augmentation, Unchanged
from gan_dist.training.augment.diffaugment import DiffAugment
from gan_dist.training.noise import StepNoise
from gan_dist.training.schedule import augment_p, instance_noise
from gan_dist.training.state import TrainingState

AUGMENTATIONS: dict[str, type[Augmentation]] = {"none": Unchanged, "diffaugment": DiffAugment, "ada": Ada}
"""The package's own augmentations by name."""


@dataclass
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
        return build(self.data)

    def __call__(self, images: Tensor, *names: str, micro_batch: int) -> Tensor:
        """Return images (n, C, H, W) as the discriminator's input; the same tensor if nothing changes.

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


def build(data: DataConfig) -> Augmentation:
    """Return the augmentation of `data.augment`.

    Raises:
        ConfigError: there is no such augmentation, or its settings are refused.
    """
    name = augment_name(data.augment)
    if is_import_path(name):
        kind = cast(type[Augmentation], load_subclass("data.augment", name, Augmentation))
    else:
        kind = AUGMENTATIONS[name]
    return kind(
        data,
        read_settings(kind.Settings, data.augment_settings, "data.augment_settings", f"data.augment={name}"),
    )
