"""FastGAN (Liu et al. 2021, "Towards Faster and Stabilized GAN Training for High-fidelity Few-shot Image
Synthesis"): for hundreds of images, and hours of one GPU.

At 256x256 with `width=32`, at 512 with 16 and at 1024 with 8, and without `max_width`, the maps have the
channels of the authors' code. What differs from that code: noise is a function of z, and drawn nowhere; there
is no second image of 128x128 for a second discriminator, and no excitation in the discriminator (the paper
has neither); the discriminator's logits are averaged before the loss; reconstructions are compared by pixels
(`fastgan_discriminator.py`); and of the generator's weights none are normalised spectrally. The authors train
with `loss.name=hinge`, whose margins their code draws from U(0.8, 1) instead of the paper's 1. Conditional
networks are this package's: conditional batch norm, and projection.
"""

from __future__ import annotations

from gan_dist.config.section import NotNegative, Section
from gan_dist.models import base
from gan_dist.models.fastgan_discriminator import Discriminator
from gan_dist.models.fastgan_generator import Generator


class Settings(Section):
    """Keys of `model.settings`."""

    reconstruction: NotNegative = 1.0
    """Weight, in the discriminator's loss, of its error in reconstructing reals."""


class FastGAN(base.Architecture):
    """`model.name=fastgan`."""

    Settings = Settings
    options = frozenset({"spectral_norm"})
    spectral_norm = True
    power_of_two = True

    def generator(self) -> Generator:
        return Generator(self.model.latent_dim, self.size)

    def discriminator(self) -> Discriminator:
        return Discriminator(
            self.size,
            self.model.pack,
            spectral_norm=self.spectrally_normalised,
            reconstruction=self.settings.reconstruction,
        )
