"""The truncation trick: styles nearer to their mean, for images that are more typical and less varied."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gan_dist.core import rng
from gan_dist.models.styled import StyledGenerator

LATENTS = 10_000
"""Latents over which w is averaged."""
CHUNK = 500
"""Latents of which w is computed at once."""


class Truncated(nn.Module):
    """A generator whose w are moved towards their mean: Karras et al. 2019, appendix B.

    w' = mean + psi (w - mean). The mean is over `LATENTS` latents, always the same ones; a conditional
    generator has one for each class. With psi = 1 images are those of the generator but for rounding; with
    psi = 0 there is one image (of each class), as the noise is then the same for all latents too. `means` of
    another one of the same generator are not computed again.
    """

    def __init__(
        self, generator: StyledGenerator, psi: float, means: dict[int, Tensor] | None = None
    ) -> None:
        super().__init__()
        self.generator, self.psi = generator, psi
        self.tanh, self.styles, self.latent_dim = generator.tanh, generator.styles, generator.latent_dim
        self.means: dict[int, Tensor] = {} if means is None else means
        """By class, or 0 of an unconditional generator."""

    def forward(self, latents: Tensor, labels: Tensor | None = None) -> Tensor:
        """Return images float32 (B, C, H, W); latents and labels are the generator's."""
        generator, w = self.generator, self.map(latents, labels)
        return generator.finished(generator.from_w(w, latents if self.psi else torch.zeros_like(latents)))

    def map(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        """Return w as it was moved, float32 (B, styles, w_dim); latents and labels are the generator's."""
        generator = self.generator
        if not generator.classes:
            labels, means = None, self._mean(0)
        elif labels is None:
            raise ValueError("a conditional network needs labels")
        else:
            means = torch.stack([self._mean(label) for label in labels.tolist()])
        return torch.lerp(means, generator.map(latents, labels), self.psi)

    @torch.no_grad()
    def _mean(self, label: int) -> Tensor:
        """Return the mean w of a class, or of an unconditional generator, float32 (styles, w_dim)."""
        if label not in self.means:
            generator = self.generator
            device = next(generator.parameters()).device
            labels = torch.full((CHUNK,), label, device=device) if generator.classes else None
            numbers = rng.normal((LATENTS, generator.latent_dim), 0, "mean-w").to(device)
            sums = [generator.map(part, labels).double().sum(0) for part in numbers.split(CHUNK)]
            self.means[label] = (torch.stack(sums).sum(0) / LATENTS).float()
        return self.means[label]
