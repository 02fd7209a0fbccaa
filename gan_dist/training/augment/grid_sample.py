"""Images at points between their pixels, twice differentiable."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

_BILINEAR, _REFLECTION = 0, 2  # the numbers of PyTorch's operator


def look_up(images: Tensor, grid: Tensor) -> Tensor:
    """Return images at points between their pixels: bilinear, reflected about the centres of border pixels.

    Older versions of PyTorch's `grid_sample` cannot be differentiated twice. The map is linear in the images:
    its gradient is the transposed map, whose own gradient is the map again.

    Args:
        images: Float (B, C, H, W).
        grid: Points (B, H', W', 2) as (x, y), -1 and 1 being the centres of the border pixels; they receive
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
            values, images, grid, _BILINEAR, _REFLECTION, True, [True, False]
        )[0]
        return found

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None, None]:
        (grid,) = ctx.saved_tensors
        return look_up(gradients[0], grid), None, None, None
