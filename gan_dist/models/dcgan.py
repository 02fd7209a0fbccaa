"""DCGAN (Radford, Metz and Chintala 2016) for any power-of-two resolution of at least 8.

At 64x64x3 with `latent_dim=100` and `width=64` it is the network of the article's figure 1 in the form that
PyTorch's DCGAN tutorial gave it: the projection of z is a transposed convolution from 1x1. Other
resolutions add or drop stages at the 4x4 end.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

from gan_dist.models import base, init
from gan_dist.models.layers import ConditionalBatchNorm, Norm, batch_norm, call, spectral
from gan_dist.models.products import Conv4x4, ConvTranspose4x4
from gan_dist.models.sizes import halvings, widths


def _layer(layer: nn.Module, generator: torch.Generator) -> None:
    init.normal(layer, 0.02, generator)


def _norm(norm: Norm, generator: torch.Generator) -> None:
    init.norm(norm, 0.02, generator)


RECIPE: init.Recipe = {
    nn.Conv2d: _layer,
    nn.ConvTranspose2d: _layer,
    nn.Embedding: _layer,
    nn.BatchNorm2d: _norm,
    nn.SyncBatchNorm: _norm,
    ConditionalBatchNorm: _norm,
}
"""Convolutions N(0, 0.02); batch norm gamma N(1, 0.02), beta 0, running statistics 0 and 1 (section 4 of the
article; gamma as in its code). Embeddings, which it has not, are drawn as convolutions are."""


class Generator(base.Generator):
    """Latents to images: transposed convolutions 4x4, batch norm and ReLU.

    `resolution` R is a power of two of at least 8 and `channels` C is at least 1; `width` is the number of
    channels at R/2, doubled at every halving of the resolution down to 4x4, up to `max_width`. With
    `classes` its batch norm is conditional. Raises ValueError for another resolution.
    """

    recipe = RECIPE

    def __init__(
        self,
        *,
        latent_dim: int,
        width: int,
        resolution: int,
        channels: int,
        max_width: int | None = None,
        classes: int = 0,
    ) -> None:
        super().__init__(latent_dim=latent_dim, resolution=resolution, channels=channels, classes=classes)
        wide = widths(width, max_width, halvings(resolution))
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(latent_dim, wide[-1], 4, stride=1, padding=0, bias=False),
            batch_norm(wide[-1], classes),
            nn.ReLU(inplace=True),
        ]
        for before, after in pairwise(reversed(wide)):
            layers += [
                ConvTranspose4x4(before, after),
                batch_norm(after, classes),
                nn.ReLU(inplace=True),
            ]
        layers.append(ConvTranspose4x4(wide[0], channels))
        self.layers = nn.Sequential(*layers)

    def draw(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        maps = latents[:, :, None, None]
        for layer in self.layers:
            maps = call(layer, maps, labels)
        return maps


class Discriminator(base.Discriminator):
    """Images to logits: the generator mirrored, with strided convolutions and LeakyReLU 0.2.

    There is no batch norm on the first layer (so none at all at 8x8) and no Sigmoid on the last one, so that
    losses can be computed from logits. Labels are compared with the last 4x4 feature maps, summed over
    their positions. `spectral_norm` divides every weight but batch norm's. Raises ValueError as the
    generator does.
    """

    recipe = RECIPE

    def __init__(
        self,
        *,
        width: int,
        resolution: int,
        channels: int,
        max_width: int | None = None,
        classes: int = 0,
        pack: int = 1,
        spectral_norm: bool = False,
    ) -> None:
        super().__init__(resolution=resolution, channels=channels, classes=classes, pack=pack)
        wide = widths(width, max_width, halvings(resolution))

        def halving(before: int, after: int) -> nn.Conv2d:
            return spectral(Conv4x4(before, after), spectral_norm)

        layers: list[nn.Module] = [halving(pack * channels, wide[0]), nn.LeakyReLU(0.2, inplace=True)]
        for before, after in pairwise(wide):
            layers += [halving(before, after), nn.BatchNorm2d(after), nn.LeakyReLU(0.2, inplace=True)]
        layers.append(spectral(nn.Conv2d(wide[-1], 1, 4, stride=1, padding=0, bias=False), spectral_norm))
        self.layers = nn.Sequential(*layers)
        self.embed = spectral(nn.Embedding(classes, wide[-1]), spectral_norm) if classes else None

    def extract(self, images: Tensor) -> Tensor:
        maps = images
        for layer in self.layers[:-1]:
            maps = layer(maps)
        return maps

    def judge(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        logits: Tensor = self.layers[-1](maps)
        return logits.flatten(), maps.sum((2, 3))
