"""DCGAN (Radford, Metz and Chintala 2016) for any power-of-two resolution.

At 64x64x3 with `latent_dim=100` and `width=64` it is the network of the article's figure 1 in the form that
PyTorch's DCGAN tutorial gave it: the projection of z is a transposed convolution from 1x1. Other
resolutions add or drop stages at the 4x4 end.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn

MIN_RESOLUTION = 16
"""Below this a discriminator would have no normalised stage left."""

_BASE = 4  # edge of the feature maps at which the generator starts and the discriminator ends


def possible_resolutions(resolution: int) -> tuple[int, ...]:
    """The resolutions near `resolution` that a DCGAN can have: itself, or the nearest below and above."""
    if resolution <= MIN_RESOLUTION:
        return (MIN_RESOLUTION,)
    below = 1 << (resolution.bit_length() - 1)
    return (resolution,) if below == resolution else (below, 2 * below)


class Generator(nn.Module):
    """Latents to images: transposed convolutions 4x4, batch norm and ReLU, Tanh at the end.

    `resolution` R is a power of two of at least 16 and `channels` C is at least 1; `width` is the number of
    channels at R/2, doubled at every halving of the resolution down to 4x4. Raises ValueError otherwise.
    """

    def __init__(self, *, latent_dim: int, width: int, resolution: int, channels: int) -> None:
        super().__init__()
        self.latent_dim = latent_dim
        self.resolution = resolution
        self.channels = channels
        widths = _widths(width, resolution)
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(latent_dim, widths[-1], 4, stride=1, padding=0, bias=False),
            nn.BatchNorm2d(widths[-1]),
            nn.ReLU(inplace=True),
        ]
        for wide, narrow in zip(reversed(widths[1:]), reversed(widths[:-1]), strict=True):
            layers += [
                nn.ConvTranspose2d(wide, narrow, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(narrow),
                nn.ReLU(inplace=True),
            ]
        layers += [nn.ConvTranspose2d(widths[0], channels, 4, stride=2, padding=1, bias=False), nn.Tanh()]
        self.layers = nn.Sequential(*layers)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents float32 (B, latent_dim), drawn from N(0, 1), to images float32 (B, C, R, R) in [-1, 1]."""
        images: Tensor = self.layers(latents[:, :, None, None])
        return images


class Discriminator(nn.Module):
    """Images to logits: the generator mirrored, with strided convolutions and LeakyReLU 0.2.

    There is no batch norm on the first layer and no Sigmoid on the last one, so that losses can be
    computed from logits. Arguments are the generator's; raises ValueError as the generator does.
    """

    def __init__(self, *, width: int, resolution: int, channels: int) -> None:
        super().__init__()
        self.resolution = resolution
        self.channels = channels
        widths = _widths(width, resolution)
        layers: list[nn.Module] = [
            nn.Conv2d(channels, widths[0], 4, stride=2, padding=1, bias=False),
            nn.LeakyReLU(0.2, inplace=True),
        ]
        for narrow, wide in pairwise(widths):
            layers += [
                nn.Conv2d(narrow, wide, 4, stride=2, padding=1, bias=False),
                nn.BatchNorm2d(wide),
                nn.LeakyReLU(0.2, inplace=True),
            ]
        layers.append(nn.Conv2d(widths[-1], 1, 4, stride=1, padding=0, bias=False))
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        """`images` float32 (B, C, R, R) in [-1, 1] to logits float32 (B,); positive means real."""
        logits: Tensor = self.layers(images)
        return logits.flatten()


@torch.no_grad()
def initialise(module: nn.Module, generator: torch.Generator) -> None:
    """Set every weight and statistic of `module` in place, as a pure function of `generator`'s state.

    Convolutions N(0, 0.02); batch norm gamma N(1, 0.02), beta 0, running statistics 0 and 1 (section 4 of
    the article; gamma as in its code). Numbers are drawn on `generator`'s device, layer after layer, and
    then copied, so the weights do not depend on the module's device or memory format.
    Raises TypeError for a layer that this recipe does not know.
    """
    for layer in module.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            _fill(layer.weight, 0.0, generator)
        elif isinstance(layer, nn.BatchNorm2d | nn.SyncBatchNorm):
            layer.reset_running_stats()
            _fill(layer.weight, 1.0, generator)
            layer.bias.zero_()
        elif any(True for _ in layer.parameters(recurse=False)):
            raise TypeError(f"DCGAN's initialisation does not cover a {type(layer).__name__}")


def _fill(weight: Tensor, mean: float, generator: torch.Generator) -> None:
    weight.copy_(torch.normal(mean, 0.02, weight.shape, generator=generator, device=generator.device))


def _widths(width: int, resolution: int) -> tuple[int, ...]:
    """Channels of the hidden stages from resolution/2 down to 4x4: width, 2 width, 4 width, ..."""
    if possible_resolutions(resolution) != (resolution,):
        raise ValueError(f"{resolution} is not a power of two of at least {MIN_RESOLUTION}")
    stages = (resolution // _BASE).bit_length() - 1
    return tuple(width << stage for stage in range(stages))
