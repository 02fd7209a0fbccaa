"""A bilinear look-up in images that can be differentiated as often as a gradient penalty needs."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

BILINEAR, REFLECTION = 0, 2
"""What PyTorch's operator calls them."""


def look_up(images: Tensor, grid: Tensor) -> Tensor:
    """Return what images show at places between their pixels, with reflection about the border's centres.

    PyTorch's `grid_sample` can be differentiated twice in its newer versions alone. The look-up is linear in
    the images: its gradient is the transposed map, whose own gradient is the look-up again.

    Args:
        images: Float (B, C, H, W).
        grid: Places (B, H', W', 2) as (x, y), -1 and 1 being the centres of the border pixels; they receive
            no gradient.

    Returns:
        Float (B, C, H', W').
    """
    found: Tensor = _LookUp.apply(images, grid)
    return found


class _LookUp(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, images: Tensor, grid: Tensor) -> Tensor:
        ctx.save_for_backward(grid)
        ctx.layout = images.shape, images.stride()
        return grid_sample(images, grid, mode="bilinear", padding_mode="reflection", align_corners=True)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        (grid,) = ctx.saved_tensors
        return _Transposed.apply(gradients[0], grid, *ctx.layout), None


class _Transposed(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, grid: Tensor, size: torch.Size, stride: tuple[int, ...]) -> Tensor:
        ctx.save_for_backward(grid)
        # Where the grid wants no gradient, nothing depends on the images but the shape and the layout.
        images = values.new_empty_strided(size, stride)
        found: Tensor = torch.ops.aten.grid_sampler_2d_backward(
            values, images, grid, BILINEAR, REFLECTION, True, [True, False]
        )[0]
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (grid,) = ctx.saved_tensors
        return look_up(gradients[0], grid), None, None, None
