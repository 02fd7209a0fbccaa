"""R3GAN (Huang et al. 2024, "The GAN is dead; long live the GAN! A Modern Baseline GAN"), configuration E.

The networks have no normalisation: they are held together by their initial weights, and meant for a
relativistic loss with R1 and R2 (`loss.name=rpgan`). All parts can be differentiated twice. At 256x256 with
`width=96`, at 64x64 with `width=384` and at 32x32 with `width=768`, `max_width=768`, `blocks=2` and
`latent_dim=64` they have the authors' sizes. Three things are not theirs: images go through tanh; a
conditional discriminator keeps an unconditional logit beside the projection, as in Miyato and Koyama 2018;
and resampling weighs (1, 3, 3, 1), which leaves maps where they are, not (1, 2, 1).
"""

from __future__ import annotations

import math
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan_dist.models import base, init
from gan_dist.models.sizes import BASE, halvings, widths

GROUP = 16
"""Channels of one group of the 3x3 convolutions."""
EXPANSION = 2
"""How many times wider they are than the maps between blocks."""
SLOPE = 0.2
GAIN = math.sqrt(2 / (1 + SLOPE**2))
"""What keeps the second moment through a leaky ReLU (He et al. 2015, equation 15)."""


class Block(nn.Module):
    """Inverted bottleneck: 1x1 convolution to twice the width, 3x3 in groups of 16 channels, 1x1 back.

    The first two convolutions have biases and are followed by leaky ReLUs, whose gain is in the initial
    weights. `depth` is the number of blocks in the network, by which these are scaled.
    """

    def __init__(self, width: int, depth: int) -> None:
        super().__init__()
        inner = EXPANSION * width
        self.depth = depth
        self.expand = nn.Conv2d(width, inner, 1)
        self.group = nn.Conv2d(inner, inner, 3, padding=1, groups=inner // GROUP)
        self.contract = nn.Conv2d(inner, width, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps float (B, width, H, W) to maps of the same shape."""
        inner = F.leaky_relu(self.expand(maps), SLOPE, inplace=True)
        inner = F.leaky_relu(self.group(inner), SLOPE, inplace=True)
        added: Tensor = self.contract(inner)
        return maps + added


class _Resampling(nn.Module):
    """Weights of bilinear interpolation by a factor of 2: (1, 3, 3, 1) both ways.

    A convolution with zeros around the image, as the authors' resampling is, and not `interpolate`, whose
    backward pass on a GPU adds in an order that changes from run to run.
    """

    kernel: Tensor

    def __init__(self, total: float) -> None:
        super().__init__()
        row = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = torch.outer(row, row)
        self.register_buffer("kernel", (kernel * (total / kernel.sum()))[None, None], persistent=False)

    def _weight(self, maps: Tensor) -> Tensor:
        return self.kernel.expand(maps.shape[1], 1, -1, -1)


class Up(_Resampling):
    """Bilinear interpolation to twice the resolution."""

    def __init__(self) -> None:
        super().__init__(total=4.0)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps float (B, C, H, W) to (B, C, 2H, 2W)."""
        return F.conv_transpose2d(maps, self._weight(maps), stride=2, padding=1, groups=maps.shape[1])


class Down(_Resampling):
    """Bilinear interpolation to half the resolution, antialiased."""

    def __init__(self) -> None:
        super().__init__(total=1.0)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps float (B, C, H, W) to (B, C, H/2, W/2)."""
        return F.conv2d(maps, self._weight(maps), stride=2, padding=1, groups=maps.shape[1])


class Basis(nn.Module):
    """The generator's start: learned maps (width, 4, 4), each multiplied by a linear function of z."""

    def __init__(self, inputs: int, width: int) -> None:
        super().__init__()
        self.maps = nn.Parameter(torch.randn(width, BASE, BASE))
        self.linear = nn.Linear(inputs, width, bias=False)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents float (B, inputs) to maps (B, width, 4, 4)."""
        factors: Tensor = self.linear(latents)
        return factors[:, :, None, None] * self.maps


def _layer(layer: nn.Module, generator: torch.Generator) -> None:
    init.msr(layer, 1.0, generator)


def _block(block: Block, generator: torch.Generator) -> None:
    # Fixup: a branch of m layers in one of L blocks has them scaled by L^(-1 / (2m - 2)), and the last at 0.
    scaled = GAIN * block.depth**-0.25
    init.msr(block.expand, scaled, generator)
    init.msr(block.group, scaled, generator)
    nn.init.zeros_(block.contract.weight)


def _basis(basis: Basis, generator: torch.Generator) -> None:
    numbers = torch.normal(
        0.0, 1.0, basis.maps.shape, generator=generator, device=generator.device, dtype=torch.float32
    )
    basis.maps.copy_(numbers)
    init.msr(basis.linear, 1.0, generator)


def _latent_embedding(table: nn.Embedding, generator: torch.Generator) -> None:
    init.normal(table, table.num_embeddings**-0.5, generator)


def _projection(table: nn.Embedding, generator: torch.Generator) -> None:
    init.normal(table, (table.num_embeddings * table.embedding_dim) ** -0.5, generator)


RECIPE: init.Recipe = {
    Block: _block,
    Basis: _basis,
    _Resampling: init.nothing,
    nn.Conv2d: _layer,
    nn.Linear: _layer,
}
"""Variance 1 / fan-in, with the leaky ReLU's gain where one follows; in blocks scaled as in Fixup (Zhang et
al. 2019, section 3) with the last convolution 0, so that every block starts as the identity; biases 0. A
class embedding is a linear layer on one-hot labels, so its fan-in is the number of classes; that of the
discriminator has variance 1 / (its length) times as much (the authors' code)."""
_GENERATOR_RECIPE: init.Recipe = {**RECIPE, nn.Embedding: _latent_embedding}
_DISCRIMINATOR_RECIPE: init.Recipe = {**RECIPE, nn.Embedding: _projection}


def _rounded(wide: tuple[int, ...]) -> tuple[int, ...]:
    """Widths rounded up to multiples of 8, which expand to whole groups."""
    step = GROUP // EXPANSION
    return tuple(-(-each // step) * step for each in wide)


class Generator(base.Generator):
    """Latents to images: a modulated basis at 4x4, `blocks` blocks at every resolution, a 1x1 convolution.

    `resolution` R is a power of two of at least 8 and `channels` C is at least 1; `width` is the number of
    channels at R, doubled at every halving of the resolution down to 4x4, up to `max_width`, and then rounded
    up to a multiple of 8. Where widths change, a 1x1 convolution precedes the upsampling. With `classes` an
    embedding as long as z is appended to z. Raises ValueError for another resolution.
    """

    recipe = _GENERATOR_RECIPE

    def __init__(
        self,
        *,
        latent_dim: int,
        width: int,
        resolution: int,
        channels: int,
        max_width: int | None = None,
        blocks: int = 2,
        classes: int = 0,
    ) -> None:
        super().__init__(latent_dim=latent_dim, resolution=resolution, channels=channels, classes=classes)
        wide = _rounded(widths(width, max_width, halvings(resolution) + 1))
        depth = len(wide) * blocks
        self.embed = nn.Embedding(classes, latent_dim) if classes else None
        self.basis = Basis(2 * latent_dim if classes else latent_dim, wide[-1])
        layers: list[nn.Module] = [Block(wide[-1], depth) for _ in range(blocks)]
        for before, after in pairwise(reversed(wide)):
            layers += _resized(before, after)
            layers.append(Up())
            layers += [Block(after, depth) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers)
        self.out = nn.Conv2d(wide[0], channels, 1, bias=False)

    def draw(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        if self.embed is not None:
            latents = torch.cat([latents, self.embed(labels)], 1)
        images: Tensor = self.out(self.layers(self.basis(latents)))
        return images


class Discriminator(base.Discriminator):
    """Images to logits: the generator mirrored, then a depthwise 4x4 convolution and a linear layer.

    Arguments are the generator's. Labels are compared with the output of the depthwise convolution. Images do
    not influence one another (but in packs). Raises ValueError as the generator does.
    """

    recipe = _DISCRIMINATOR_RECIPE

    def __init__(
        self,
        *,
        width: int,
        resolution: int,
        channels: int,
        max_width: int | None = None,
        blocks: int = 2,
        classes: int = 0,
        pack: int = 1,
    ) -> None:
        super().__init__(resolution=resolution, channels=channels, classes=classes, pack=pack)
        wide = _rounded(widths(width, max_width, halvings(resolution) + 1))
        depth = len(wide) * blocks
        layers: list[nn.Module] = [nn.Conv2d(pack * channels, wide[0], 1, bias=False)]
        for before, after in pairwise(wide):
            layers += [Block(before, depth) for _ in range(blocks)]
            layers.append(Down())
            layers += _resized(before, after)
        layers += [Block(wide[-1], depth) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers)
        self.basis = nn.Conv2d(wide[-1], wide[-1], BASE, groups=wide[-1], bias=False)
        self.out = nn.Linear(wide[-1], 1, bias=False)
        self.embed = nn.Embedding(classes, wide[-1]) if classes else None

    def extract(self, images: Tensor) -> Tensor:
        maps: Tensor = self.layers(images)
        return maps

    def judge(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        features: Tensor = self.basis(maps).flatten(1)
        logits: Tensor = self.out(features)
        return logits.squeeze(1), features


def _resized(before: int, after: int) -> list[nn.Module]:
    return [] if before == after else [nn.Conv2d(before, after, 1, bias=False)]
