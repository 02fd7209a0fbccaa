"""Convolutions to and from 4x4 maps as matrix products, where a CPU computes in bfloat16.

With so few positions and so many channels oneDNN's convolutions reach a fraction of what its matrix products
do: the gradient of a 256 to 512 channel layer's weights takes six times as long (`benchmarks/`). The rows of
the product are the 4x4 patches that the kernel sees; the layers are the usual ones, and do the usual thing
everywhere else: at other sizes, on other devices, in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

KERNEL, STRIDE, PADDING = 4, 2, 1
POSITIONS = 16
"""Places of the kernel, at most, up to which products are faster."""


class Conv4x4(nn.Conv2d):
    """Half the resolution: a convolution 4x4 of stride 2 without bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, KERNEL, stride=STRIDE, padding=PADDING, bias=False)

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, inputs, 2h, 2w) to (B, outputs, h, w)."""
        if _pays(maps, maps.shape[2] * maps.shape[3] // STRIDE**2):
            rows: Tensor = _Down.apply(maps.bfloat16(), self.weight.bfloat16())
            batch, _, height, width = maps.shape
            return _maps(rows, batch, height // STRIDE, width // STRIDE)
        return super().forward(maps)


class ConvTranspose4x4(nn.ConvTranspose2d):
    """Twice the resolution: a transposed convolution 4x4 of stride 2 without bias."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, KERNEL, stride=STRIDE, padding=PADDING, bias=False)

    def forward(self, maps: Tensor, output_size: list[int] | None = None) -> Tensor:
        """Maps (B, inputs, h, w) to (B, outputs, 2h, 2w)."""
        if _pays(maps, maps.shape[2] * maps.shape[3]):
            padded: Tensor = _Up.apply(maps.bfloat16(), self.weight.bfloat16())
            return _inside(padded)
        return super().forward(maps, output_size)


def _pays(maps: Tensor, positions: int) -> bool:
    return (
        maps.device.type == "cpu"
        and positions <= POSITIONS
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
        of_maps = of_weight = None
        if ctx.needs_input_grad[0]:
            batch, _, height, width = ctx.shape
            of_maps = _inside(_overlapped(rows @ _matrix(weight), batch, height // STRIDE, width // STRIDE))
        if ctx.needs_input_grad[1]:
            of_weight = _weights(rows.T @ patches, weight)
        return of_maps, of_weight


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
        of_maps = of_weight = None
        if ctx.needs_input_grad[0]:
            batch, _, height, width = ctx.shape
            of_maps = _maps(patches @ _matrix(weight).T, batch, height, width)
        if ctx.needs_input_grad[1]:
            of_weight = _weights(rows.T @ patches, weight)
        return of_maps, of_weight


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


def _inside(padded: Tensor) -> Tensor:
    """The inverse of `_padded`."""
    return padded[:, PADDING:-PADDING, PADDING:-PADDING].permute(0, 3, 1, 2)


def _patches(padded: Tensor) -> Tensor:
    """Return what the kernel sees at each of its h x w places, as (B h w, 16 C)."""
    seen = padded.unfold(1, KERNEL, STRIDE).unfold(2, KERNEL, STRIDE)  # (B, h, w, C, 4, 4)
    return seen.permute(0, 1, 2, 4, 5, 3).reshape(-1, KERNEL**2 * padded.shape[3])


def _overlapped(patches: Tensor, batch: int, height: int, width: int) -> Tensor:
    """Add patches up where they overlap: the transpose of `_patches`."""
    places = patches.view(batch, height, width, KERNEL, KERNEL, -1)
    border = 2 * PADDING
    padded = patches.new_zeros(batch, height * STRIDE + border, width * STRIDE + border, places.shape[5])
    for row in range(KERNEL):
        for column in range(KERNEL):
            seen = padded[:, row : row + height * STRIDE : STRIDE, column : column + width * STRIDE : STRIDE]
            seen += places[:, :, :, row, column]
    return padded
