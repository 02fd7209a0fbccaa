"""FastGAN's discriminator (Liu et al. 2021, section 3.2), which also learns to encode the reals.

Two decoders reconstruct reals from its maps: all of an image from the last ones, and a quarter of it, drawn
for each image, from that quarter of the maps before. Reconstructions are small images, compared with reals
averaged to their size. The error is the mean absolute difference of pixels: the authors' is LPIPS, for which
another network, trained on ImageNet, would have to be had.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gan_dist.models import base
from gan_dist.models.fastgan_generator import RECIPE, SLOPE
from gan_dist.models.layers import doubled, spectral
from gan_dist.models.sizes import BASE, NetworkSize

STEM = 256
"""Largest edge of residual blocks; larger images are halved to it by single convolutions."""
DECODED = (128, 64, 64, 32)
"""Channels of a decoder's maps, each of twice the resolution of those before: the authors' code."""


def _halving(before: int, after: int, *, norm: bool, on: bool) -> nn.Sequential:
    """Return a 4x4 convolution with stride 2, batch norm and a leaky ReLU."""
    conv = spectral(nn.Conv2d(before, after, 4, 2, 1, bias=False), on)
    return nn.Sequential(conv, *([nn.BatchNorm2d(after)] if norm else []), nn.LeakyReLU(SLOPE))


class DiscriminatorBlock(nn.Module):
    """Halves the resolution: the mean of two convolutions, 4x4 and 3x3, and of average pooling and a 1x1 one.

    Batch norm and a leaky ReLU follow every convolution.
    """

    def __init__(self, before: int, after: int, spectral_norm: bool) -> None:
        super().__init__()
        conv = spectral(nn.Conv2d(after, after, 3, padding=1, bias=False), spectral_norm)
        direct = spectral(nn.Conv2d(before, after, 1, bias=False), spectral_norm)
        first = _halving(before, after, norm=True, on=spectral_norm)
        self.main = nn.Sequential(first, conv, nn.BatchNorm2d(after), nn.LeakyReLU(SLOPE))
        self.direct = nn.Sequential(direct, nn.BatchNorm2d(after), nn.LeakyReLU(SLOPE))

    def forward(self, maps: Tensor) -> Tensor:
        """Maps float (B, before, H, W) to (B, after, H/2, W/2)."""
        both: Tensor = self.main(maps) + self.direct(F.avg_pool2d(maps, 2))
        return both / 2


class Decoder(nn.Module):
    """Maps to images in [-1, 1] of 2^`doublings` times their edge.

    Each doubling repeats pixels; a 3x3 convolution, batch norm and a gated linear unit follow.
    """

    def __init__(self, before: int, channels: int, doublings: int, spectral_norm: bool) -> None:
        super().__init__()
        widths = [before, *(min(width, before) for width in DECODED[:doublings])]
        self.convs = nn.ModuleList(
            spectral(nn.Conv2d(a, 2 * b, 3, padding=1, bias=False), spectral_norm)
            for a, b in pairwise(widths)
        )
        self.norms = nn.ModuleList(nn.BatchNorm2d(2 * width) for width in widths[1:])
        self.out = spectral(nn.Conv2d(widths[-1], channels, 3, padding=1, bias=False), spectral_norm)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps float (B, before, h, w) to images (B, channels, 2^doublings h, 2^doublings w)."""
        for conv, norm in zip(self.convs, self.norms, strict=True):
            maps = F.glu(norm(conv(doubled(maps))), 1)
        images: Tensor = self.out(maps).tanh()
        return images


class Discriminator(base.ProjectionDiscriminator):
    """A stem to 256x256 at most, a residual block for every halving to 8x8, a 1x1 and a 4x4 convolution.

    The last one's logits, 5 x 5 of them, become one, their mean: the authors average the losses of all.
    For images that do not halve to 4x4, edges are those of `NetworkSize.square`. Images of less than 32
    pixels end at 4x4, with one logit. Labels are compared with the mean over the
    positions of what the 1x1 convolution gives. Batch norm is everywhere but behind the first and the last
    convolution.

    There are no decoders if `reconstruction`, their weight in the loss, is 0.
    """

    recipe = RECIPE

    def __init__(
        self, size: NetworkSize, pack: int = 1, *, spectral_norm: bool = True, reconstruction: float = 1.0
    ) -> None:
        super().__init__(size, pack)
        self.reconstruction = reconstruction
        edge, last, images = size.square, _last_edge(size.square), pack * size.channels
        # Half of the width that doubles with every halving from the image on, as in the authors' code.
        wide = [max(1, width // 2) for width in size.widths(size.halvings + 2)]
        stem: list[nn.Module] = []
        if edge <= STEM:
            stem = [spectral(nn.Conv2d(images, wide[0], 3, padding=1, bias=False), spectral_norm)]
            stem.append(nn.LeakyReLU(SLOPE))
        depth = 0
        while edge > STEM:
            depth, edge = depth + 1, edge // 2
            before = wide[depth - 1] if stem else images
            stem.append(_halving(before, wide[depth], norm=bool(stem), on=spectral_norm))
        self.stem = nn.Sequential(*stem)
        blocks = []
        while edge > last:
            depth, edge = depth + 1, edge // 2
            blocks.append(DiscriminatorBlock(wide[depth - 1], wide[depth], spectral_norm))
        self.blocks = nn.ModuleList(blocks)
        hidden = min(2 * wide[depth], size.max_width or 2 * wide[depth])
        self.head = spectral(nn.Conv2d(wide[depth], hidden, 1, bias=False), spectral_norm)
        self.norm = nn.BatchNorm2d(hidden)
        self.out = spectral(nn.Conv2d(hidden, 1, size.base, bias=False), spectral_norm)
        self.embed = spectral(nn.Embedding(size.classes, hidden), spectral_norm) if size.classes else None
        if reconstruction:
            # As large as the image, or its quarter, but at most as DECODED goes.
            whole, quarter = (_doublings(part, last) for part in (size.square, size.square // 2))
            self.decode_whole = Decoder(wide[depth], images, whole, spectral_norm)
            self.decode_quarter = Decoder(wide[depth - 1], images, quarter, spectral_norm)

    def stages(self) -> Sequence[nn.Module]:
        """A stage is a block, the first one with the stem."""
        first, *others = self.blocks
        return [nn.Sequential(self.stem, first), *others]

    def feature_maps(self, images: Tensor) -> Tensor:
        return self._maps(images)[1]

    def logits_and_features(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        hidden = F.leaky_relu(self.norm(self.head(maps)), SLOPE)
        logits: Tensor = self.out(hidden)
        return logits.mean((1, 2, 3)), hidden.mean((2, 3))

    def logits_and_errors(
        self, images: Tensor, labels: Tensor | None, draws: Tensor
    ) -> tuple[Tensor, Tensor]:
        before, last = self._maps(images)
        quarters = (4 * draws).floor().long()
        errors = _error(self.decode_whole(last), images)
        errors = errors + _error(self.decode_quarter(_quarter(before, quarters)), _quarter(images, quarters))
        return self.project(last, labels), errors

    def _maps(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Return the maps before the last block, and the last ones."""
        before = last = self.stem(images)
        for block in self.blocks:
            before, last = last, block(last)
        return before, last


def _last_edge(resolution: int) -> int:
    return 2 * BASE if resolution >= 8 * BASE else BASE


def _doublings(edge: int, maps: int) -> int:
    return min(len(DECODED), (edge // maps).bit_length() - 1)


def _quarter(maps: Tensor, quarters: Tensor) -> Tensor:
    """Return a quarter of each map (B, C, H, W): 0 and 1 are at the top, 0 and 2 on the left."""
    which = quarters.view(-1, 1, 1, 1)
    top, bottom = maps.chunk(2, 2)
    left, right = torch.where(which < 2, top, bottom).chunk(2, 3)
    return torch.where(which % 2 == 0, left, right)


def _error(found: Tensor, images: Tensor) -> Tensor:
    """Return the mean absolute difference of each image (B, C, h, w) from the real, float32 (B,).

    Reals (B, C, H, W) are averaged to that size.
    """
    wanted = F.avg_pool2d(images, images.shape[2] // found.shape[2])
    return (found.to(wanted.dtype) - wanted).abs().mean((1, 2, 3))
