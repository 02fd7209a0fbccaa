"""FastGAN's generator: gated convolutions, noise, skip-layer excitations (Liu et al. 2021, section 3.1)."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan_dist.models import base, dcgan, init, noise
from gan_dist.models.layers import batch_norm, call, doubled
from gan_dist.models.sizes import BASE, NetworkSize

REACH = 16
"""The edge of excited maps over that of the maps that excite them."""
LAST_EXCITED = 512
"""Largest edge of excited maps."""
SAME = 32
"""Edge of the maps that have the channels of those of twice their edge."""
SLOPE = 0.2
"""Slope of the leaky ReLUs below 0."""


class Excitation(nn.Module):
    """Skip-layer excitation. Maps times gates in (0, 1), one a channel, from lower maps.

    The lower maps, averaged to the size of the first ones (4x4), become a vector by a convolution of that
    size; a leaky ReLU, a 1x1 convolution and a sigmoid follow.
    """

    def __init__(self, lower: int, channels: int, base: tuple[int, int] = (BASE, BASE)) -> None:
        super().__init__()
        self.base = base
        self.squeeze = nn.Conv2d(lower, channels, base, bias=False)
        self.excite = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, lower: Tensor, maps: Tensor) -> Tensor:
        """Lower maps float (B, lower, h, w), of some times the base, and maps (B, channels, H, W) to such."""
        vector = self.squeeze(F.avg_pool2d(lower, lower.shape[2] // self.base[0]))
        gates: Tensor = self.excite(F.leaky_relu(vector, SLOPE)).sigmoid()
        return maps * gates


class Noise(nn.Module):
    """Adds noise times a learned scale, 0 at first; `layer` is the number of this noise in the network."""

    def __init__(self, layer: int) -> None:
        super().__init__()
        self.layer = layer
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, maps: Tensor, seeds: Tensor) -> Tensor:
        """Maps float (B, C, H, W) and seeds int64 (B,) to maps of the same shape and type."""
        drawn = noise.normal(seeds, self.layer, *maps.shape[2:])
        return maps + self.scale * drawn.to(maps.dtype)


class Gated(nn.Module):
    """A 3x3 convolution to twice the channels, noise if it has a `layer`, batch norm, a gated linear unit."""

    def __init__(self, before: int, after: int, classes: int, layer: int | None) -> None:
        super().__init__()
        self.conv = nn.Conv2d(before, 2 * after, 3, padding=1, bias=False)
        self.noise = None if layer is None else Noise(layer)
        self.norm = batch_norm(2 * after, classes)

    def forward(self, maps: Tensor, labels: Tensor | None, seeds: Tensor) -> Tensor:
        """Maps float (B, before, H, W) to (B, after, H, W)."""
        maps = self.conv(maps)
        if self.noise is not None:
            maps = self.noise(maps, seeds)
        return F.glu(call(self.norm, maps, labels), 1)


class GeneratorBlock(nn.Module):
    """Doubles the resolution by repeating pixels; then one gated convolution, or two with noise."""

    def __init__(self, before: int, after: int, classes: int, edge: int) -> None:
        super().__init__()
        power = edge.bit_length()
        two = power % 2 == 0  # at 8, 32, 128 and 512
        layers = (2 * power, 2 * power + 1) if two else (None,)
        self.convs = nn.ModuleList(
            Gated(after if index else before, after, classes, layer) for index, layer in enumerate(layers)
        )

    def forward(self, maps: Tensor, labels: Tensor | None, seeds: Tensor) -> Tensor:
        """Maps float (B, before, H, W) to (B, after, 2H, 2W)."""
        maps = doubled(maps)
        for conv in self.convs:
            maps = conv(maps, labels, seeds)
        return maps


def _noise(layer: Noise, generator: torch.Generator) -> None:  # noqa: ARG001
    nn.init.zeros_(layer.scale)


RECIPE: init.Recipe = {Noise: _noise, **dcgan.RECIPE}
"""DCGAN's: N(0, 0.02^2), batch norm's gain from N(1, 0.02^2); biases and noise 0 (the authors' code)."""


def excited(resolution: int) -> dict[int, int]:
    """Return the edges of the excited maps of square images, and for each that of the maps that excite it.

    Below 64x64, where nothing is that far apart, the maps of 4x4 excite the last ones.
    """
    if resolution < REACH * BASE:
        return {resolution: BASE}
    edges = (BASE << power for power in range(resolution.bit_length()))
    return {REACH * edge: edge for edge in edges if REACH * edge <= min(resolution, LAST_EXCITED)}


class Generator(base.Generator):
    """A linear layer to 4x4, a block for every doubling, skip-layer excitations, a 3x3 convolution.

    Channels double with every halving of the resolution, but from 64x64 to 32x32, as in the authors' code.
    With classes the batch norm is conditional. For images that do not halve to 4x4, edges stand for those of
    the square images that do so as often (`NetworkSize.square`).
    """

    recipe = RECIPE

    def __init__(self, latent_dim: int, size: NetworkSize) -> None:
        super().__init__(latent_dim, size)
        wide = _widths(size)
        first, classes = wide[BASE], size.classes
        self.start = nn.Linear(latent_dim, 2 * first * size.base.area, bias=False)
        self.base = size.base
        self.norm = batch_norm(2 * first, classes)
        edges = [edge for edge in wide if edge > BASE]
        self.blocks = nn.ModuleList(
            GeneratorBlock(wide[edge // 2], wide[edge], classes, edge) for edge in edges
        )
        self._excited = excited(size.square)
        self.excitations = nn.ModuleDict(
            {str(edge): Excitation(wide[by], wide[edge], size.base) for edge, by in self._excited.items()}
        )
        self.out = nn.Conv2d(wide[size.square], size.channels, 3, padding=1, bias=False)

    def synthesise(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        seeds = noise.seeds(latents)
        maps: Tensor = self.start(latents).unflatten(1, (-1, *self.base))
        maps = F.glu(call(self.norm, maps, labels), 1)
        edge, at = BASE, {BASE: maps}
        for block in self.blocks:
            edge, maps = 2 * edge, block(maps, labels, seeds)
            if edge in self._excited:
                maps = self.excitations[str(edge)](at[self._excited[edge]], maps)
            at[edge] = maps
        images: Tensor = self.out(maps)
        return images

    def latent_weight(self) -> Tensor:
        return self.start.weight


def _widths(size: NetworkSize) -> dict[int, int]:
    """Return the channels at each edge, from 4 up."""
    doubled, found = size.widths(size.halvings + 1), {}
    for halvings in range(size.halvings, -1, -1):
        edge = size.square >> halvings
        found[edge] = doubled[halvings - 1 if edge <= SAME < size.square else halvings]
    return found
