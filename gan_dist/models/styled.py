"""Generators that map latents to styles w first, and make images from these."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from gan_dist.models import base


class StyledGenerator(base.Generator):
    """Latents to w, and w to images: Karras et al. 2019 (StyleGAN), section 2.

    An image takes `styles` w, one for each layer. Latents are float32 (B, latent_dim), of which all its w
    are, or (B, styles, latent_dim), one for each of them.
    """

    styles: int
    """L, the number of w that an image takes."""
    style_mixing: float = 0.0
    """In training, the probability of an image of two latents: see `mix`."""

    @abstractmethod
    def map(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Return w, float32 (B, L, w_dim), of latents (B, latent_dim) or (B, L, latent_dim)."""

    @abstractmethod
    def from_w(self, w: Tensor, latents: Tensor) -> Tensor:
        """Return images, float (B, C, H, W), of w (B, L, w_dim), with the noise (if any) of the latents."""

    def synthesise(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        return self.from_w(self.map(latents, labels), latents)

    def with_w(self, latents: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return images, as a call does, and their w, float32 (B, L, w_dim); labels as in `synthesise`."""
        w = self.map(latents, labels)
        return self.finished(self.from_w(w, latents)), w


def mix(coarse: Tensor, fine: Tensor, first_fine: Tensor, styles: int) -> Tensor:
    """Return latents for each style of images, (B, styles, latent_dim): style mixing.

    Karras et al. 2019, section 3.1.

    Args:
        coarse: (B, latent_dim), for the styles of low resolutions.
        fine: (B, latent_dim), for the others.
        first_fine: int64 (B,), the number of the first style that is fine; `styles` for none.
        styles: Number of styles.
    """
    is_coarse = torch.arange(styles, device=coarse.device) < first_fine[:, None]
    return torch.where(is_coarse[..., None], coarse[:, None], fine[:, None])
