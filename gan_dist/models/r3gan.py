"""R3GAN (Huang et al. 2024, "The GAN is dead; long live the GAN! A Modern Baseline GAN"), configuration E.

The networks have no normalisation: their stability comes from the initial weights and a relativistic loss
with R1 and R2 (`loss.name=rpgan`). All parts can be differentiated twice. Widths are rounded up, so that the
3x3 convolutions have whole groups. The presets `cifar10`, `ffhq64`, `ffhq256` and `imagenet64` have the
authors' sizes.

The networks are those of the paper and its code (`model.variant=published`): images are not limited, and a
conditional discriminator's logit is the inner product of its output and the class's embedding. In
`model.variant=tanh`, the only one up to version 0.2, images go through tanh, and the inner product is added
to an unconditional logit, as in Miyato and Koyama 2018. The authors name their resampling by (1, 2, 1), and
convolve these weights with (1, 1): what is applied is (1, 3, 3, 1), bilinear interpolation, here as there.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan_dist.models import base, init
from gan_dist.models.layers import standard_normal
from gan_dist.models.sizes import BASE, NetworkSize

EXPANSION = 2
"""Width of the 3x3 convolutions relative to that of the maps between blocks."""
TANH = "tanh"
"""The `model.variant` of versions up to 0.2."""
SLOPE = 0.2
GAIN = math.sqrt(2 / (1 + SLOPE**2))
"""Gain that preserves the second moment through a leaky ReLU (He et al. 2015)."""


class Block(nn.Module):
    """Inverted bottleneck: 1x1 convolution to twice the width, 3x3 in groups of channels, 1x1 back.

    The first two convolutions have biases and are followed by leaky ReLUs, whose gain is in the initial
    weights. `depth` is the number of blocks in the network, by which these are scaled; a group has `group`
    channels.
    """

    def __init__(self, width: int, depth: int, group: int = 16) -> None:
        super().__init__()
        inner = EXPANSION * width
        self.depth = depth
        self.expand = nn.Conv2d(width, inner, 1)
        self.group = nn.Conv2d(inner, inner, 3, padding=1, groups=inner // group)
        self.contract = nn.Conv2d(inner, width, 1, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps float (B, width, H, W) to maps of the same shape."""
        inner = F.leaky_relu(self.expand(maps), SLOPE, inplace=True)
        inner = F.leaky_relu(self.group(inner), SLOPE, inplace=True)
        added: Tensor = self.contract(inner)
        return maps + added


class Resampling(nn.Module):
    """Bilinear interpolation: to twice the resolution if `up`, otherwise to half of it, antialiased.

    A convolution of weights (1, 3, 3, 1) with zeros around the image, as the authors' code has it, and not
    `interpolate`, whose backward pass on a GPU adds in an order that changes from run to run.
    """

    kernel: Tensor

    def __init__(self, *, up: bool) -> None:
        super().__init__()
        self.up = up
        row = torch.tensor([1.0, 3.0, 3.0, 1.0])
        kernel = torch.outer(row, row)
        total = 4.0 if up else 1.0
        self.register_buffer("kernel", (kernel * (total / kernel.sum()))[None, None], persistent=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps float (B, C, H, W) to (B, C, 2H, 2W), or (B, C, H/2, W/2)."""
        channels = maps.shape[1]
        resample = F.conv_transpose2d if self.up else F.conv2d
        kernel = self.kernel.expand(channels, 1, -1, -1)
        return resample(maps, kernel, stride=2, padding=1, groups=channels)


class Basis(nn.Module):
    """The generator's start: learned maps (width, h, w), each multiplied by a linear function of z."""

    def __init__(self, inputs: int, width: int, base: tuple[int, int] = (BASE, BASE)) -> None:
        super().__init__()
        self.maps = nn.Parameter(torch.randn(width, *base))
        self.linear = nn.Linear(inputs, width, bias=False)

    def forward(self, latents: Tensor) -> Tensor:
        """Latents float (B, inputs) to maps (B, width, h, w)."""
        factors: Tensor = self.linear(latents)
        return factors[:, :, None, None] * self.maps


_layer = partial(init.msr, gain=1.0)


def _block(block: Block, generator: torch.Generator) -> None:
    # Fixup: a branch of m layers in one of L blocks has them scaled by L^(-1 / (2m - 2)), and the last at 0.
    scaled = GAIN * block.depth**-0.25
    init.msr(block.expand, generator, gain=scaled)
    init.msr(block.group, generator, gain=scaled)
    nn.init.zeros_(block.contract.weight)


def _basis(basis: Basis, generator: torch.Generator) -> None:
    basis.maps.copy_(standard_normal(basis.maps.shape, generator))
    _layer(basis.linear, generator)


def _latent_embedding(table: nn.Embedding, generator: torch.Generator) -> None:
    init.normal(table, generator, std=table.num_embeddings**-0.5)


def _projection(table: nn.Embedding, generator: torch.Generator) -> None:
    init.normal(table, generator, std=(table.num_embeddings * table.embedding_dim) ** -0.5)


RECIPE: init.Recipe = {Block: _block, Basis: _basis, nn.Conv2d: _layer, nn.Linear: _layer}
"""Variance 1 / fan-in, with the leaky ReLU's gain where one follows; in blocks scaled as in Fixup (Zhang et
al. 2019, section 3) with the last convolution 0, so that every block starts as the identity; biases 0. A
class embedding is a linear layer on one-hot labels, so its fan-in is the number of classes; that of the
discriminator has variance 1 / (its length) times as much (the authors' code)."""


def _widths(size: NetworkSize, group: int) -> tuple[int, ...]:
    """Return the widths of `size`, rounded up to multiples that expand to whole groups."""
    step = group // math.gcd(group, EXPANSION)
    return tuple(-(-width // step) * step for width in size.widths(size.halvings + 1))


class Generator(base.Generator):
    """A modulated basis of 4x4 (`size.base`), `blocks` blocks at every resolution, a 1x1 convolution.

    Where widths change, a 1x1 convolution precedes the upsampling. With classes an embedding as long as z is
    appended to z.
    """

    recipe: ClassVar[init.Recipe] = {**RECIPE, nn.Embedding: _latent_embedding}

    def __init__(
        self,
        latent_dim: int,
        size: NetworkSize,
        blocks: int = 2,
        group_width: int = 16,
        variant: str | None = None,
    ) -> None:
        super().__init__(latent_dim, size)
        self.tanh = variant == TANH
        widths, classes = _widths(size, group_width), size.classes
        depth = len(widths) * blocks
        self.embed = nn.Embedding(classes, latent_dim) if classes else None
        self.basis = Basis(2 * latent_dim if classes else latent_dim, widths[-1], size.base)
        layers: list[nn.Module] = [Block(widths[-1], depth, group_width) for _ in range(blocks)]
        for before, after in pairwise(reversed(widths)):
            layers += _change_width(before, after)
            layers.append(Resampling(up=True))
            layers += [Block(after, depth, group_width) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers)
        self.out = nn.Conv2d(widths[0], size.channels, 1, bias=False)

    def synthesise(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        if self.embed is not None:
            latents = torch.cat([latents, self.embed(labels)], 1)
        images: Tensor = self.out(self.layers(self.basis(latents)))
        return images

    def latent_weight(self) -> Tensor:
        # The basis multiplies all maps[channel, y, x] by the linear layer's output for the channel.
        rows = self.basis.linear.weight[:, : self.latent_dim]
        return (self.basis.maps[..., None] * rows[:, None, None]).flatten(0, 2)


class Discriminator(base.ProjectionDiscriminator):
    """The generator mirrored, then a depthwise convolution of all 4x4 positions and a linear layer.

    The linear layer gives the logit, or with classes as many numbers as it gets, and the logit is the inner
    product of these and the class's embedding. In the variant `tanh` it gives the logit in any case, to which
    the inner product of the depthwise convolution's output and the embedding is added. Images do not
    influence one another (but in packs).
    """

    recipe: ClassVar[init.Recipe] = {**RECIPE, nn.Embedding: _projection}

    def __init__(
        self,
        size: NetworkSize,
        blocks: int = 2,
        group_width: int = 16,
        variant: str | None = None,
        pack: int = 1,
    ) -> None:
        super().__init__(size, pack)
        self._has_logit = not size.classes or variant == TANH
        widths = _widths(size, group_width)
        depth, last = len(widths) * blocks, widths[-1]
        layers: list[nn.Module] = [nn.Conv2d(pack * size.channels, widths[0], 1, bias=False)]
        for before, after in pairwise(widths):
            layers += [Block(before, depth, group_width) for _ in range(blocks)]
            layers.append(Resampling(up=False))
            layers += _change_width(before, after)
        layers += [Block(last, depth, group_width) for _ in range(blocks)]
        self.layers = nn.Sequential(*layers)
        self.basis = nn.Conv2d(last, last, size.base, groups=last, bias=False)
        self.out = nn.Linear(last, 1 if self._has_logit else last, bias=False)
        self.embed = nn.Embedding(size.classes, last) if size.classes else None

    def stages(self) -> Sequence[nn.Module]:
        """A stage is the blocks of a resolution and the 1x1 convolution to their width."""
        ends = [index + 1 for index, layer in enumerate(self.layers) if isinstance(layer, Resampling)]
        return [self.layers[start:end] for start, end in pairwise([0, *ends, len(self.layers)])]

    def feature_maps(self, images: Tensor) -> Tensor:
        maps: Tensor = self.layers(images)
        return maps

    def logits_and_features(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        features: Tensor = self.basis(maps).flatten(1)
        out: Tensor = self.out(features)
        return (out.squeeze(1), features) if self._has_logit else (out.new_zeros(len(out)), out)


class R3GAN(base.Architecture):
    """`model.name=r3gan`."""

    options = frozenset({"blocks", "group_width"})
    power_of_two = True

    def generator(self) -> Generator:
        model = self.model
        return Generator(model.latent_dim, self.size, model.blocks, model.group_width, model.variant)

    def discriminator(self) -> Discriminator:
        model = self.model
        return Discriminator(self.size, model.blocks, model.group_width, model.variant, model.pack)


def _change_width(before: int, after: int) -> list[nn.Module]:
    return [] if before == after else [nn.Conv2d(before, after, 1, bias=False)]
