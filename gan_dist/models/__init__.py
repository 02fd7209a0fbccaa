"""Architectures: each has a file with its generator, its discriminator and their initial weights."""

from __future__ import annotations

from gan_dist.config import ModelConfig
from gan_dist.errors import ConfigError
from gan_dist.models import dcgan
from gan_dist.models.dcgan import Discriminator, Generator, initialise

__all__ = ["Discriminator", "Generator", "build", "initialise"]


def build(model: ModelConfig, *, resolution: int, channels: int) -> tuple[Generator, Discriminator]:
    """The generator and the discriminator of `model` for images (channels, resolution, resolution).

    The weights are torch's defaults; `initialise` sets them from a seed. Raises ConfigError if the
    architecture cannot have this resolution, with the nearest ones that it can.
    """
    match model.name:
        case "dcgan":
            possible = dcgan.possible_resolutions(resolution)
            if resolution not in possible:
                raise ConfigError(
                    [
                        f"data.resolution={resolution}: model.name=dcgan makes images whose edge is a power "
                        f"of two of at least {dcgan.MIN_RESOLUTION}; use {' or '.join(map(str, possible))}"
                    ]
                )
            generator = Generator(
                latent_dim=model.latent_dim, width=model.width, resolution=resolution, channels=channels
            )
            return generator, Discriminator(width=model.width, resolution=resolution, channels=channels)
