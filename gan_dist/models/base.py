"""What all generators and all discriminators have in common: arguments, labels, packs and precision."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

import torch
from torch import Tensor, nn

from gan_dist.models.init import Recipe


class Generator(nn.Module, ABC):
    """Latents, and labels if it is conditional, to images."""

    recipe: ClassVar[Recipe]
    """How its initial weights are drawn."""

    def __init__(self, *, latent_dim: int, resolution: int, channels: int, classes: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.resolution = resolution
        self.channels = channels
        self.classes = classes
        """Classes that it is told apart; 0 if it is unconditional."""

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Latents float32 (B, latent_dim), drawn from N(0, 1), to images float32 (B, C, R, R) in [-1, 1].

        `labels` int64 (B,) are read by a conditional generator alone, which raises ValueError without them.
        The result is float32 under autocast as well.
        """
        return _widened(self.draw(latents, _read(labels, self.classes))).tanh()

    @abstractmethod
    def draw(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Return the images before tanh; labels are None if and only if it is unconditional."""


class Discriminator(nn.Module, ABC):
    """Images, and labels if it is conditional, to logits."""

    recipe: ClassVar[Recipe]
    """How its initial weights are drawn."""
    embed: nn.Embedding | None
    """Of every class the vector whose inner product with the features is added to the logit."""

    def __init__(self, *, resolution: int, channels: int, classes: int, pack: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.channels = channels
        self.classes = classes
        """Classes that it is told apart; 0 if it is unconditional."""
        self.pack = pack
        """Consecutive images that are judged together."""

    def forward(self, images: Tensor, labels: Tensor | None = None) -> Tensor:
        """Images float32 (B, C, R, R) in [-1, 1] to logits float32 (B / pack,); positive means real.

        `pack` consecutive images are one input of pack x C channels: Lin et al. 2018 (PacGAN), section 3.
        A conditional discriminator adds the inner product of the features and the class's embedding: Miyato
        and Koyama 2018, equation 3; a pack's embedding is the sum of those of its images' labels, int64 (B,).
        The logits are computed in float32 under autocast as well.

        Raises:
            ValueError: B does not divide by `pack`, or a conditional discriminator has no labels.
        """
        labels = _read(labels, self.classes)
        maps = self.extract(self._packed(images))
        with torch.autocast(maps.device.type, enabled=False):
            logits, features = self.judge(_widened(maps))
            if labels is not None:
                logits = logits + (self._embedded(labels) * features).sum(1)
        return logits

    @abstractmethod
    def extract(self, images: Tensor) -> Tensor:
        """Return the last feature maps of images (N, pack x C, R, R)."""

    @abstractmethod
    def judge(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (N,) of feature maps, and the features (N, F) that labels are compared with."""

    def _packed(self, images: Tensor) -> Tensor:
        if len(images) % self.pack:
            raise ValueError(f"{len(images)} images cannot be judged in packs of {self.pack}")
        if self.pack == 1:
            return images
        return images.reshape(len(images) // self.pack, self.pack * self.channels, *images.shape[2:])

    def _embedded(self, labels: Tensor) -> Tensor:
        assert self.embed is not None
        vectors: Tensor = self.embed(labels)
        return vectors.view(-1, self.pack, vectors.shape[1]).sum(1)


def _read(labels: Tensor | None, classes: int) -> Tensor | None:
    if classes == 0:
        return None
    if labels is None:
        raise ValueError("a conditional network needs labels")
    return labels


def _widened(maps: Tensor) -> Tensor:
    return maps.to(torch.promote_types(maps.dtype, torch.float32))
