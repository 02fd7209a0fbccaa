"""What all generators and all discriminators have in common: labels, packs and precision."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from gan_dist.models.init import Recipe
from gan_dist.models.sizes import NetworkSize


class Generator(nn.Module, ABC):
    """Latents, and labels if it is conditional, to images."""

    recipe: ClassVar[Recipe]
    """Distributions of the initial weights."""
    tanh: bool = True
    """Whether images go through tanh. Without it, those of a trained generator are about in [-1, 1]."""

    def __init__(self, latent_dim: int, size: NetworkSize) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.resolution, self.channels, self.classes = size.resolution, size.channels, size.classes

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images of latents, float32 (B, C, R, R), under autocast too; -1 is black and 1 is white.

        Without `tanh` values may lie beyond, and become black or white in pixels (`to_uint8`).

        Args:
            latents: float32 (B, latent_dim), drawn from N(0, 1).
            labels: int64 (B,); an unconditional generator ignores them.

        Raises:
            ValueError: a conditional generator is called without labels.
        """
        images = _at_least_float32(self.synthesise(latents, _labels(labels, self.classes)))
        return images.tanh() if self.tanh else images

    @abstractmethod
    def synthesise(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Return the images, before `tanh`; labels are None if and only if the generator is unconditional."""


class Discriminator(nn.Module, ABC):
    """Images, and labels if it is conditional, to logits."""

    recipe: ClassVar[Recipe]
    """Distributions of the initial weights."""
    embed: nn.Embedding | None
    """A vector for each class; its inner product with the features is added to the logit."""

    def __init__(self, size: NetworkSize, pack: int) -> None:
        super().__init__()
        self.resolution, self.channels, self.classes = size.resolution, size.channels, size.classes
        self.pack = pack
        """Consecutive images that share a logit."""

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return logits of images, float32 (B / pack,), under autocast too; positive means real.

        `pack` consecutive images are one input of pack x C channels: Lin et al. 2018 (PacGAN), section 3.
        A conditional discriminator adds the inner product of the features and the class's embedding: Miyato
        and Koyama 2018, equation 3; the embedding of a pack is the sum over its images.

        Args:
            images: float32 (B, C, R, R), about in [-1, 1].
            labels: int64 (B,); an unconditional discriminator ignores them.

        Raises:
            ValueError: B does not divide by `pack`, or a conditional discriminator is called without labels.
        """
        labels = _labels(labels, self.classes)
        if len(images) % self.pack:
            raise ValueError(f"{len(images)} images cannot be judged in packs of {self.pack}")
        if self.pack > 1:
            images = images.reshape(len(images) // self.pack, self.pack * self.channels, *images.shape[2:])
        maps = self.feature_maps(images)
        with torch.autocast(maps.device.type, enabled=False):
            logits, features = self.logits_and_features(_at_least_float32(maps))
            if self.embed is not None and labels is not None:
                vectors: Tensor = self.embed(labels)
                of_packs = vectors.view(-1, self.pack, vectors.shape[1]).sum(1)
                logits = logits + (of_packs * features).sum(1)
        return logits

    @abstractmethod
    def feature_maps(self, images: Tensor) -> Tensor:
        """Return the last feature maps of images (N, pack x C, R, R)."""

    @abstractmethod
    def logits_and_features(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (N,) of feature maps, and the features (N, F) that labels are compared with."""


def _labels(labels: Tensor | None, classes: int) -> Tensor | None:
    if classes and labels is None:
        raise ValueError("a conditional network needs labels")
    return labels if classes else None


def _at_least_float32(maps: Tensor) -> Tensor:
    return maps.to(torch.promote_types(maps.dtype, torch.float32))
