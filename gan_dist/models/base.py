"""Base classes of all architectures, of a user's own too: labels, packs and precision."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from gan_dist.config import ModelConfig, Section
from gan_dist.core.errors import ConfigError, Problem
from gan_dist.models import layers
from gan_dist.models.init import Recipe
from gan_dist.models.sizes import NetworkSize


class Architecture(ABC):
    """Both networks of one `model.name`, for images of one size."""

    Settings: ClassVar[type[Section]] = Section
    """Its keys of `model.settings`, as a pydantic model whose fields all have defaults."""
    options: ClassVar[frozenset[str]] = frozenset()
    """Keys of the section `model` that only some architectures heed, and this one does: `attention`,
    `blocks`, `spectral_norm`, `stddev_group`."""
    spectral_norm: ClassVar[bool] = False
    """Whether the discriminator has spectral normalisation where `model.spectral_norm` is absent."""
    power_of_two: ClassVar[bool] = False
    """Whether the edges of the images have to be those of small feature maps, doubled: `size.base`."""

    def __init__(self, model: ModelConfig, size: NetworkSize, settings: Section) -> None:
        self.model, self.size = model, size
        self.settings: Any = settings
        """An object of `Settings`."""

    @property
    def spectrally_normalised(self) -> bool:
        """Whether the discriminator has spectral normalisation: `model.spectral_norm`, or what is usual."""
        chosen = self.model.spectral_norm
        return self.spectral_norm if chosen is None else chosen

    def problems(self) -> Iterator[Problem]:
        """Yield what is impossible in these sizes and settings; nothing is built then."""
        yield from ()

    @abstractmethod
    def generator(self) -> Generator:
        """Return a new generator."""

    @abstractmethod
    def discriminator(self) -> Discriminator:
        """Return a new discriminator."""


class Generator(nn.Module, ABC):
    """Latents, and labels if it is conditional, to images."""

    recipe: ClassVar[Recipe | None] = None
    """Distributions of the initial weights; None leaves them as the constructor draws them."""
    tanh: bool = True
    """Whether images go through tanh. Without it, those of a trained generator are about in [-1, 1]."""

    def __init__(self, latent_dim: int, size: NetworkSize) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.resolution, self.channels, self.classes = size.resolution, size.channels, size.classes
        self.image = size.image
        """H and W, height and width of the images in pixels."""

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images of latents, float32 (B, C, H, W), under autocast too; -1 is black and 1 is white.

        Without `tanh` values may lie beyond, and become black or white in pixels (`to_uint8`).

        Args:
            latents: float32 (B, latent_dim), drawn from N(0, 1).
            labels: int64 (B,); an unconditional generator ignores them.

        Raises:
            ValueError: a conditional generator is called without labels.
        """
        return self.finished(self.synthesise(latents, _labels(labels, self.classes)))

    @abstractmethod
    def synthesise(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Return the images, before `tanh`; labels are None if and only if the generator is unconditional."""

    def finished(self, images: Tensor) -> Tensor:
        """Return what `synthesise` has returned in float32, and through `tanh` if there is one."""
        images = _at_least_float32(images)
        return images.tanh() if self.tanh else images

    def latent_weight(self) -> Tensor | None:
        """Return the weights A of the first layer, float (outputs, latent_dim), which computes A z + b of z.

        Of several layers that take the latents it is all their weights, below one another; of a
        `StyledGenerator` those of all layers that take a w, (outputs, w_dim), in proportion as they are
        applied. None, of a generator that has no such layer: directions (`artifacts/directions.py`) are not
        for it.
        """
        return None


class Discriminator(nn.Module, ABC):
    """Images, and labels if it is conditional, to logits."""

    recipe: ClassVar[Recipe | None] = None
    """Distributions of the initial weights; None leaves them as the constructor draws them."""
    reconstruction: float = 0.0
    """Weight in its loss of the error with which it reconstructs reals; 0 for one that reconstructs none."""

    def __init__(self, size: NetworkSize, pack: int = 1) -> None:
        super().__init__()
        self.resolution, self.channels, self.classes = size.resolution, size.channels, size.classes
        self.image = size.image
        """H and W, height and width of the images in pixels."""
        self.pack = pack
        """Consecutive images that share a logit."""

    def forward(
        self, images: Tensor, labels: Tensor | None = None, draws: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Return logits of images, float32 (B / pack,), under autocast too; positive means real.

        `pack` consecutive images are one input of pack x C channels: Lin et al. 2018 (PacGAN), section 3.
        With `draws` the errors of reconstruction follow, float32 (B / pack,): one forward pass for both.

        Args:
            images: float32 (B, C, H, W), about in [-1, 1].
            labels: int64 (B,); an unconditional discriminator ignores them.
            draws: Float (B,), uniform in [0, 1): where to look, for a discriminator with `reconstruction`.

        Raises:
            ValueError: B does not divide by `pack`, or a conditional discriminator is called without labels.
        """
        labels = _labels(labels, self.classes)
        if len(images) % self.pack:
            raise ValueError(f"{len(images)} images cannot be judged in packs of {self.pack}")
        if self.pack > 1:
            images = images.reshape(len(images) // self.pack, self.pack * self.channels, *images.shape[2:])
        if draws is None:
            return _at_least_float32(self.logits(images, labels))
        logits, errors = self.logits_and_errors(images, labels, draws[:: self.pack])
        return _at_least_float32(logits), _at_least_float32(errors)

    def logits_and_errors(
        self, images: Tensor, labels: Tensor | None, draws: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Return the logits, and the error with which each input is reconstructed, (N,); `draws` are (N,)."""
        raise NotImplementedError(f"{type(self).__name__} reconstructs nothing")

    @abstractmethod
    def logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        """Return the logits (N,) of inputs (N, pack x C, H, W).

        The labels are those of the single images, int64 (N x pack,), in their order; None if and only if the
        discriminator is unconditional.
        """

    def stages(self) -> Sequence[nn.Module]:
        """Return the parts of the network from the image side on, one for each resolution, without the last.

        These are what `init.freeze_d` counts. A network that names none cannot be frozen.
        """
        return ()

    def freeze(self, count: int) -> None:
        """Keep the first `count` stages as they are, in training too (`layers.freeze`).

        Raises:
            ConfigError: there are fewer.
        """
        stages = self.stages()
        if count > len(stages):
            raise ConfigError(
                f"init.freeze_d={count}: this discriminator has {len(stages)} stages to freeze",
                f"use {len(stages)} or less, as a rule half of them" if stages else "leave init.freeze_d out",
                keys=("init.freeze_d",),
            )
        for stage in stages[:count]:
            layers.freeze(stage)


class ProjectionDiscriminator(Discriminator):
    """A discriminator that compares its features with the class.

    Where it is conditional, the inner product of the features and the class's embedding is added to the
    logit: Miyato and Koyama 2018; the embedding of a pack is the sum over its images. This is in
    float32 under autocast too.
    """

    embed: nn.Embedding | None
    """A vector for each class."""

    def logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        return self.project(self.feature_maps(images), labels)

    def project(self, maps: Tensor, labels: Tensor | None) -> Tensor:
        """Return the logits (N,) of the last feature maps."""
        with torch.autocast(maps.device.type, enabled=False):
            logits, features = self.logits_and_features(_at_least_float32(maps))
            if self.embed is not None and labels is not None:
                vectors: Tensor = self.embed(labels)
                of_packs = vectors.view(-1, self.pack, vectors.shape[1]).sum(1)
                logits = logits + (of_packs * features).sum(1)
        return logits

    @abstractmethod
    def feature_maps(self, images: Tensor) -> Tensor:
        """Return the last feature maps of images (N, pack x C, H, W)."""

    @abstractmethod
    def logits_and_features(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """Return the logits (N,) of feature maps, and the features (N, F) that labels are compared with."""


def _labels(labels: Tensor | None, classes: int) -> Tensor | None:
    if classes and labels is None:
        raise ValueError("a conditional network needs labels")
    return labels if classes else None


def _at_least_float32(maps: Tensor) -> Tensor:
    return maps.to(torch.promote_types(maps.dtype, torch.float32))
