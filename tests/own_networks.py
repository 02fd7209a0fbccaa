"""Networks as a user writes them, of which gan_dist/ knows nothing: two multilayer perceptrons."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import one_hot

from gan_dist import Architecture, Discriminator, Generator, NetworkSize, Section


class Settings(Section):
    """Keys of `model.settings`."""

    depth: Annotated[int, Field(ge=1, le=4)] = 1
    """Hidden layers of both networks."""
    slope: Annotated[float, Field(gt=0, lt=1)] = 0.2
    """Slope of the leaky ReLUs below zero."""


class Perceptrons(Architecture):
    """For images of any size, with or without classes."""

    Settings = Settings

    def generator(self) -> Generator:
        size = self.size
        layers = self.layers(self.model.latent_dim + size.classes, size.channels * size.image.area)
        return PerceptronGenerator(self.model.latent_dim, size, layers)

    def discriminator(self) -> Discriminator:
        size, pack = self.size, self.model.pack
        layers = self.layers(pack * (size.channels * size.image.area + size.classes), 1)
        return PerceptronDiscriminator(size, pack, layers)

    def layers(self, inputs: int, outputs: int) -> nn.Sequential:
        layers: list[nn.Module] = []
        for _ in range(self.settings.depth):
            layers += [nn.Linear(inputs, self.model.width), nn.LeakyReLU(self.settings.slope)]
            inputs = self.model.width
        return nn.Sequential(*layers, nn.Linear(inputs, outputs))


class PerceptronGenerator(Generator):
    def __init__(self, latent_dim: int, size: NetworkSize, layers: nn.Module) -> None:
        super().__init__(latent_dim, size)
        self.layers = layers

    def synthesise(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        if labels is not None:
            latents = torch.cat([latents, one_hot(labels, self.classes).to(latents)], 1)
        images: Tensor = self.layers(latents)
        return images.view(-1, self.channels, *self.image)


class PerceptronDiscriminator(Discriminator):
    def __init__(self, size: NetworkSize, pack: int, layers: nn.Module) -> None:
        super().__init__(size, pack)
        self.layers = layers

    def logits(self, images: Tensor, labels: Tensor | None) -> Tensor:
        inputs = images.flatten(1)
        if labels is not None:
            inputs = torch.cat([inputs, one_hot(labels, self.classes).to(inputs).view(len(inputs), -1)], 1)
        logits: Tensor = self.layers(inputs)
        return logits.squeeze(1)
