"""DCGAN (Radford, Metz and Chintala 2016) for images of all sizes that doubling makes (`sizes.base_of`).

At 64x64x3 with `latent_dim=100` and `width=64` it is the network of the article's figure 1 in the form of
PyTorch's DCGAN tutorial: the projection of z is a transposed convolution from 1x1. Other resolutions add or
drop stages at the 4x4 end, and other bases have kernels of their size there. `width` is the number of
channels at half the resolution of the images.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from gan_dist.models import base, init
from gan_dist.models.layers import batch_norm, call, spectral
from gan_dist.models.sizes import NetworkSize

KERNEL, STRIDE, PADDING = 4, 2, 1
PRODUCT_POSITIONS = 16
"""Largest number of positions of the kernel at which matrix products are faster than convolutions."""

RECIPE = init.with_batch_norm(partial(init.normal, std=0.02), std=0.02)
"""Convolutions N(0, 0.02); batch norm gamma N(1, 0.02), beta 0, running statistics 0 and 1 (section 4 of the
article; gamma as in its code). The article has no embeddings; they are drawn as convolutions are."""


class Generator(base.Generator):
    """Transposed convolutions 4x4, batch norm (conditional if there are classes) and ReLU."""

    recipe = RECIPE

    def __init__(self, latent_dim: int, size: NetworkSize) -> None:
        super().__init__(latent_dim, size)
        widths = size.widths(size.halvings)
        layers: list[nn.Module] = [
            nn.ConvTranspose2d(latent_dim, widths[-1], size.base, stride=1, padding=0, bias=False),
            batch_norm(widths[-1], size.classes),
            nn.ReLU(inplace=True),
        ]
        for before, after in pairwise(reversed(widths)):
            layers += [
                ConvTranspose4x4(before, after),
                batch_norm(after, size.classes),
                nn.ReLU(inplace=True),
            ]
        layers.append(ConvTranspose4x4(widths[0], size.channels))
        self.layers = nn.Sequential(*layers)

    def synthesise(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        maps = latents[:, :, None, None]
        for layer in self.layers:
            maps = call(layer, maps, labels)
        return maps

    def latent_weight(self) -> Tensor:
        return self.layers[0].get_parameter("weight").flatten(1).T


class Discriminator(base.ProjectionDiscriminator):
    """The generator mirrored, with strided convolutions and LeakyReLU 0.2.

    There is no batch norm on the first layer (so none at all at 8x8) and no Sigmoid on the last one, so that
    losses can be computed from logits. Labels are compared with the last feature maps, summed over
    their positions. `spectral_norm` divides every weight but batch norm's.
    """

    recipe = RECIPE

    def __init__(self, size: NetworkSize, pack: int = 1, spectral_norm: bool = False) -> None:
        super().__init__(size, pack)
        widths, classes = size.widths(size.halvings), size.classes

        def halving(before: int, after: int) -> nn.Conv2d:
            return spectral(Conv4x4(before, after), spectral_norm)

        layers: list[nn.Module] = [halving(pack * size.channels, widths[0]), nn.LeakyReLU(0.2, inplace=True)]
        for before, after in pairwise(widths):
            layers += [halving(before, after), nn.BatchNorm2d(after), nn.LeakyReLU(0.2, inplace=True)]
        last = nn.Conv2d(widths[-1], 1, size.base, stride=1, padding=0, bias=False)
        layers.append(spectral(last, spectral_norm))
        self.layers = nn.Sequential(*layers)
        self.embed = spectral(nn.Embedding(classes, widths[-1]), spectral_norm) if classes else None

    def stages(self) -> Sequence[nn.Module]:
        """A stage is a convolution that halves the resolution, with its batch norm."""
        starts = [index for index, layer in enumerate(self.layers) if isinstance(layer, Conv4x4)]
        return [self.layers[start:end] for start, end in pairwise([*starts, len(self.layers) - 1])]

    def feature_maps(self, images: Tensor) -> Tensor:
        maps = images
        for layer in self.layers[:-1]:
            maps = layer(maps)
        return maps

    def logits_and_features(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        logits: Tensor = self.layers[-1](maps)
        return logits.flatten(), maps.sum((2, 3))


class DCGAN(base.Architecture):
    """`model.name=dcgan`."""

    options = frozenset({"spectral_norm"})
    power_of_two = True

    def generator(self) -> Generator:
        return Generator(self.model.latent_dim, self.size)

    def discriminator(self) -> Discriminator:
        return Discriminator(self.size, self.model.pack, spectral_norm=self.spectrally_normalised)


# Convolutions to and from 4x4 maps as matrix products, where a CPU computes in bfloat16. With so few
# positions and so many channels oneDNN's convolutions reach a fraction of the speed of its matrix products:
# the gradient of a 256 to 512 channel layer's weights takes six times as long (`benchmarks/`). The rows of
# the product are the 4x4 patches under the kernel. At other sizes, on other devices and in float32 the layers
# are torch's own.


class Conv4x4(nn.Conv2d):
    """Half the resolution: a convolution 4x4 of stride 2 without bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, KERNEL, stride=STRIDE, padding=PADDING, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, inputs, 2h, 2w) to (B, outputs, h, w)."""
        batch, _, height, width = maps.shape
        if _product_is_faster(maps, height * width // STRIDE**2):
            rows: Tensor = _Down.apply(maps.bfloat16(), self.weight.bfloat16())
            return _maps(rows, batch, height // STRIDE, width // STRIDE)
        return super().forward(maps)


class ConvTranspose4x4(nn.ConvTranspose2d):
    """Twice the resolution: a transposed convolution 4x4 of stride 2 without bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, KERNEL, stride=STRIDE, padding=PADDING, bias=False)

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Maps (B, inputs, h, w) to (B, outputs, 2h, 2w)."""
        if _product_is_faster(maps, maps.shape[2] * maps.shape[3]):
            padded: Tensor = _Up.apply(maps.bfloat16(), self.weight.bfloat16())
            return _unpadded(padded)
        return super().forward(maps, output_size)


def _product_is_faster(maps: Tensor, positions: int) -> bool:
    return (
        maps.device.type == "cpu"
        and positions <= PRODUCT_POSITIONS
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
    )


class _Down(torch.autograd.Function):
    """Maps (B, C, 2h, 2w) to the rows (B h w, n) of maps."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor) -> Tensor:
        patches = _patches(_padded(maps))
        ctx.save_for_backward(patches, weight)
        ctx.shape = maps.shape
        return patches @ _matrix(weight).T

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, rows: Tensor) -> tuple[Tensor | None, Tensor | None]:
        patches, weight = ctx.saved_tensors
        grad_maps = grad_weight = None
        if ctx.needs_input_grad[0]:
            batch, _, height, width = ctx.shape
            patches_grad = rows @ _matrix(weight)
            grad_maps = _unpadded(_overlapped(patches_grad, batch, height // STRIDE, width // STRIDE))
        if ctx.needs_input_grad[1]:
            grad_weight = _weights(rows.T @ patches, weight)
        return grad_maps, grad_weight


class _Up(torch.autograd.Function):
    """Maps (B, n, h, w) to maps with a border, channels last: (B, 2h + 2, 2w + 2, C)."""

    @staticmethod
    def forward(ctx: Any, maps: Tensor, weight: Tensor) -> Tensor:
        rows = maps.permute(0, 2, 3, 1).reshape(-1, maps.shape[1])
        ctx.save_for_backward(rows, weight)
        ctx.shape = maps.shape
        batch, _, height, width = maps.shape
        return _overlapped(rows @ _matrix(weight), batch, height, width)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, padded: Tensor) -> tuple[Tensor | None, Tensor | None]:
        rows, weight = ctx.saved_tensors
        patches = _patches(padded)
        grad_maps = grad_weight = None
        if ctx.needs_input_grad[0]:
            batch, _, height, width = ctx.shape
            grad_maps = _maps(patches @ _matrix(weight).T, batch, height, width)
        if ctx.needs_input_grad[1]:
            grad_weight = _weights(rows.T @ patches, weight)
        return grad_maps, grad_weight


def _matrix(weight: Tensor) -> Tensor:
    """Return a kernel (n, c, 4, 4) as (n, 16 c), a patch's channels innermost; no copy if channels last."""
    return weight.permute(0, 2, 3, 1).reshape(len(weight), -1)


def _weights(matrix: Tensor, like: Tensor) -> Tensor:
    """The inverse of `_matrix`."""
    return matrix.view(len(like), KERNEL, KERNEL, -1).permute(0, 3, 1, 2)


def _maps(rows: Tensor, batch: int, height: int, width: int) -> Tensor:
    """Return rows (B h w, C) as maps (B, C, h, w)."""
    return rows.view(batch, height, width, -1).permute(0, 3, 1, 2)


def _padded(maps: Tensor) -> Tensor:
    """Return maps (B, C, H, W) with a border of zeros, channels last."""
    return F.pad(maps.permute(0, 2, 3, 1), (0, 0, PADDING, PADDING, PADDING, PADDING))


def _unpadded(padded: Tensor) -> Tensor:
    """The inverse of `_padded`."""
    return padded[:, PADDING:-PADDING, PADDING:-PADDING].permute(0, 3, 1, 2)


def _patches(padded: Tensor) -> Tensor:
    """Return the patches under the kernel at its h x w positions, as (B h w, 16 C)."""
    patches = padded.unfold(1, KERNEL, STRIDE).unfold(2, KERNEL, STRIDE)  # (B, h, w, C, 4, 4)
    return patches.permute(0, 1, 2, 4, 5, 3).reshape(-1, KERNEL**2 * padded.shape[3])


def _overlapped(patches: Tensor, batch: int, height: int, width: int) -> Tensor:
    """Add patches up where they overlap: the transpose of `_patches`."""
    places = patches.view(batch, height, width, KERNEL, KERNEL, -1)
    border = 2 * PADDING
    padded = patches.new_zeros(batch, height * STRIDE + border, width * STRIDE + border, places.shape[5])
    for row in range(KERNEL):
        for column in range(KERNEL):
            part = padded[:, row : row + height * STRIDE : STRIDE, column : column + width * STRIDE : STRIDE]
            part += places[:, :, :, row, column]
    return padded
