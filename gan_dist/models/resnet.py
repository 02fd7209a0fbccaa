"""Residual networks of SNGAN (Miyato et al. 2018, tables 3 and 4), with SAGAN's self-attention on request.

The blocks are those of Gulrajani et al. 2017, appendix F. At 128x128 with `width=64` and `max_width=1024`
these are the networks of table 4; the discriminator of table 3 (32x32, `width=256` or 128) stops at 8x8,
while this one goes on to 4x4 at all resolutions.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan_dist.core.errors import Problem
from gan_dist.models import base, init
from gan_dist.models.layers import batch_norm, call, doubled, spectral
from gan_dist.models.sizes import BASE, NetworkSize

MIN_ATTENTION = 4 * BASE
"""Lowest resolution of square images with feature maps at a quarter of it."""


class SelfAttention(nn.Module):
    """Attention of every position to all: Zhang et al. 2019 (SAGAN), section 3.

    `scale` (their gamma) starts at 0, so that the layer starts as the identity. Queries, keys and values have
    an eighth of the channels. Memory grows with the square of the maps' area.
    """

    def __init__(self, channels: int, spectral_norm: bool = False) -> None:
        super().__init__()
        inner = max(1, channels // 8)

        def pointwise(before: int, after: int) -> nn.Conv2d:
            return spectral(nn.Conv2d(before, after, 1, bias=False), spectral_norm)

        self.query = pointwise(channels, inner)
        self.key = pointwise(channels, inner)
        self.value = pointwise(channels, inner)
        self.out = pointwise(inner, channels)
        self.scale = nn.Parameter(torch.zeros(()))

    def forward(self, maps: Tensor) -> Tensor:
        """Maps float (B, channels, H, W) to maps of the same shape."""
        query, key, value = (layer(maps).flatten(2) for layer in (self.query, self.key, self.value))
        # (B, from, to). Not scaled_dot_product_attention: its fast kernels cannot be differentiated twice.
        weights = torch.bmm(query.transpose(1, 2), key).softmax(2).to(value.dtype)
        attended = torch.bmm(value, weights.transpose(1, 2)).unflatten(2, maps.shape[2:])
        added: Tensor = self.out(attended)
        return maps + self.scale.to(maps.dtype) * added


class GeneratorBlock(nn.Module):
    """Doubles the resolution: two rounds of batch norm, ReLU and convolution beside a 1x1 convolution."""

    def __init__(self, before: int, after: int, classes: int) -> None:
        super().__init__()
        # Without biases: the next batch norms would subtract them, as the last one does for the sum.
        self.norm1 = batch_norm(before, classes)
        self.conv1 = nn.Conv2d(before, after, 3, padding=1, bias=False)
        self.norm2 = batch_norm(after, classes)
        self.conv2 = nn.Conv2d(after, after, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(before, after, 1, bias=False)

    def forward(self, maps: Tensor, labels: Tensor | None) -> Tensor:
        """Maps float (B, before, H, W) to (B, after, 2H, 2W)."""
        inner: Tensor = self.conv1(doubled(F.relu(call(self.norm1, maps, labels))))
        inner = self.conv2(F.relu(call(self.norm2, inner, labels)))
        # A 1x1 convolution and this upsampling commute; so it has a quarter of the work.
        return doubled(self.shortcut(maps)) + inner


class DiscriminatorBlock(nn.Module):
    """Two rounds of ReLU and convolution, then average pooling if `halve`; no ReLU before the `first`."""

    def __init__(
        self, before: int, after: int, *, halve: bool, spectral_norm: bool, first: bool = False
    ) -> None:
        super().__init__()
        inner = after if first else before
        self.halve = halve
        self.first = first
        self.conv1 = spectral(nn.Conv2d(before, inner, 3, padding=1), spectral_norm)
        self.conv2 = spectral(nn.Conv2d(inner, after, 3, padding=1), spectral_norm)
        changes = halve or before != after
        self.shortcut = spectral(nn.Conv2d(before, after, 1), spectral_norm) if changes else nn.Identity()

    def forward(self, maps: Tensor) -> Tensor:
        """Maps float (B, before, H, W) to (B, after, H/2, W/2), or (B, after, H, W) without `halve`."""
        inner: Tensor = self.conv2(F.relu(self.conv1(maps if self.first else F.relu(maps))))
        if self.halve:
            maps, inner = F.avg_pool2d(maps, 2), F.avg_pool2d(inner, 2)
        shortcut: Tensor = self.shortcut(maps)
        return shortcut + inner


_layer = partial(init.xavier, gain=1.0)


def _block(block: GeneratorBlock | DiscriminatorBlock, generator: torch.Generator) -> None:
    for child in block.children():
        if child is block.conv1 or child is block.conv2:
            init.xavier(child, generator, gain=math.sqrt(2))
        else:
            init.apply(child, RECIPE, generator)


def _attention(attention: SelfAttention, generator: torch.Generator) -> None:
    for layer in (attention.query, attention.key, attention.value, attention.out):
        _layer(layer, generator)
    nn.init.zeros_(attention.scale)


RECIPE: init.Recipe = {
    GeneratorBlock: _block,
    DiscriminatorBlock: _block,
    SelfAttention: _attention,
    **init.with_batch_norm(_layer, std=0.0),
}
"""Xavier's uniform distribution, with a gain of sqrt(2) for the convolutions that a ReLU precedes (those of
3x3 in blocks), as in the code of Miyato and Koyama 2018; batch norm's gain 1, all biases 0."""


class Generator(base.Generator):
    """A linear layer to 4x4 (`size.base`), a block for every doubling, batch norm, ReLU, convolution.

    With classes the batch norm is conditional. Attention is at R/4.
    """

    recipe = RECIPE

    def __init__(self, latent_dim: int, size: NetworkSize, attention: bool = False) -> None:
        super().__init__(latent_dim, size)
        widths, classes = size.widths(size.halvings + 1), size.classes
        self.base = size.base
        self.start = nn.Linear(latent_dim, widths[-1] * size.base.area)
        self.blocks = nn.ModuleList(GeneratorBlock(*pair, classes) for pair in pairwise(reversed(widths)))
        if attention:
            self.blocks.insert(len(self.blocks) - 2, SelfAttention(widths[2]))
        self.norm = batch_norm(widths[0], classes)
        self.out = nn.Conv2d(widths[0], size.channels, 3, padding=1)

    def synthesise(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        maps: Tensor = self.start(latents).unflatten(1, (-1, *self.base))
        for block in self.blocks:
            maps = block(maps) if isinstance(block, SelfAttention) else block(maps, labels)
        images: Tensor = self.out(F.relu(call(self.norm, maps, labels)))
        return images

    def latent_weight(self) -> Tensor:
        return self.start.weight


class Discriminator(base.ProjectionDiscriminator):
    """A block for every halving down to 4x4, one more, ReLU, the sum over positions.

    The output of the first block has `width` channels. There is no batch norm, so images do not influence
    one another (but in packs). `spectral_norm` divides all weights, those of the attention and of the class
    embedding included.
    """

    recipe = RECIPE

    def __init__(
        self, size: NetworkSize, attention: bool = False, pack: int = 1, spectral_norm: bool = True
    ) -> None:
        super().__init__(size, pack)
        widths, classes = size.widths(size.halvings + 1), size.classes
        norm = {"spectral_norm": spectral_norm}
        blocks: list[nn.Module] = [
            DiscriminatorBlock(pack * size.channels, widths[0], halve=True, first=True, **norm)
        ]
        blocks += [DiscriminatorBlock(*pair, halve=True, **norm) for pair in pairwise(widths[:-1])]
        blocks.append(DiscriminatorBlock(widths[-2], widths[-1], halve=False, **norm))
        if attention:
            blocks.insert(2, SelfAttention(widths[1], spectral_norm))
        self.blocks = nn.Sequential(*blocks)
        self.out = spectral(nn.Linear(widths[-1], 1), spectral_norm)
        self.embed = spectral(nn.Embedding(classes, widths[-1]), spectral_norm) if classes else None

    def stages(self) -> Sequence[nn.Module]:
        """A stage is a block, with the attention that precedes it."""
        ends = [index + 1 for index, layer in enumerate(self.blocks) if isinstance(layer, DiscriminatorBlock)]
        return [self.blocks[start:end] for start, end in pairwise([0, *ends])]

    def feature_maps(self, images: Tensor) -> Tensor:
        maps: Tensor = self.blocks(images)
        return maps

    def logits_and_features(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        features = F.relu(maps).sum((2, 3))
        logits: Tensor = self.out(features)
        return logits.squeeze(1), features


class ResNet(base.Architecture):
    """`model.name=resnet`."""

    options = frozenset({"attention", "spectral_norm"})
    spectral_norm = True
    power_of_two = True

    def problems(self) -> Iterator[Problem]:
        if self.model.attention and self.size.resolution < MIN_ATTENTION:
            yield Problem(
                f"model.attention=true: at data.resolution={self.size.image.resolution} there are no "
                "feature maps of a quarter of it",
                f"use data.resolution={MIN_ATTENTION}, or model.attention=false",
                ("model.attention", "data.resolution"),
            )

    def generator(self) -> Generator:
        return Generator(self.model.latent_dim, self.size, self.model.attention)

    def discriminator(self) -> Discriminator:
        model = self.model
        return Discriminator(self.size, model.attention, model.pack, spectral_norm=self.spectrally_normalised)
