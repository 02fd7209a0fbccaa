"""Adaptive discriminator augmentation (ADA): its transforms, and the controller of their strength."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import grid_sample

_BILINEAR, _REFLECTION = 0, 2  # the numbers of PyTorch's operator
COLUMNS = 28
"""Uniform numbers for each image: a gate and the values of every transform, in the order of application."""


def augment(images: Tensor, draws: Tensor, p: float | Tensor) -> Tensor:
    """The "bgc" pipeline of adaptive discriminator augmentation: Karras et al. 2020 (ADA), appendix B.

    Each transform of each image is applied with probability p on its own. Geometry, in order: x-flip (half
    the time); 0 to 3 quarter turns; a translation by whole pixels, U(-1/8, 1/8) of the size; scale
    2^N(0, 0.2^2); a rotation by any angle, with probability 1 - sqrt(1 - p); scale 2^N(0, 0.2^2) in x and its
    inverse in y; a second such rotation; a translation by N(0, 0.125^2) of the size. Colour, in order:
    brightness + N(0, 0.2^2); contrast times 2^N(0, 0.5^2); luma flip (half the time); hue, a rotation about
    the grey axis by any angle; saturation times 2^N(0, 1).

    All geometry is one bilinear look-up with reflection about the centres of the border pixels. The paper
    low-pass filters with a wavelet around this look-up; that is left out, so shrunk images alias.
    Hue needs three channels. Any other number gets the rest, with the mean of the channels as luma; one
    channel is its own luma, so that saturation changes nothing, as in the paper's code.

    Args:
        images: Float (B, C, H, W) around [-1, 1], any memory format; twice differentiable.
        draws: Float (B, COLUMNS) uniform in [0, 1), on any device: the parameters are computed there,
            and only the matrices of the images are moved.
        p: The strength in [0, 1], a number or a 0-dim tensor, see `adjusted`.

    Returns:
        Images of the same shape, type and device, not clamped. An image that no
        transform changes is returned to the last bit; so is the geometry of one that only changes in colour.
    """
    channels, height, width = images.shape[1:]
    columns = iter(draws.to(torch.float64).unbind(1))
    chance = torch.as_tensor(p, dtype=torch.float64, device=draws.device)
    images = _warp(images, _geometry(columns, chance, height, width).to(images))
    return _recolour(images, _colour(columns, chance, channels).to(images))


def adjusted(p: float, sign_mean: float, images: int, *, target: float = 0.6, kimg: float = 500) -> float:
    """Strength after one adjustment: Karras et al. 2020 (ADA), section 3.

    The measure of overfitting is r_t = E[sign(D(real))], equation 1: 0 for a discriminator that is right half
    of the time, 1 for one that is right about all training images. p moves by a fixed step towards
    r_t = target. For losses that do not fix the middle between reals and fakes (`wgan`, `wgan-gp`, `rpgan`)
    the sign is that of D(real) - D(fake), pair by pair. Either way r_t is 2 a - 1, a being the accuracy on
    reals (`losses.Adversarial.accuracy`).

    Args:
        p: The strength so far, in [0, 1].
        sign_mean: r_t, all ranks, over the last discriminator update of each round since the last adjustment.
        images: Real images since the last adjustment, all ranks.
        target: The r_t to hold.
        kimg: Thousands of images in which p can go from 0 to 1.

    Returns:
        p + sign(sign_mean - target) * images / (1000 kimg), clamped to [0, 1].

    Raises:
        ValueError: p or sign_mean is outside its range or not a number, or kimg is not positive.
    """
    if not (0 <= p <= 1 and -1 <= sign_mean <= 1 and kimg > 0):
        raise ValueError(
            f"p {p} must be in [0, 1], the mean sign {sign_mean} in [-1, 1] and kimg {kimg} above 0"
        )
    direction = (sign_mean > target) - (sign_mean < target)
    return min(max(p + direction * images / (1000 * kimg), 0.0), 1.0)


def _normal(uniform: Tensor) -> Tensor:
    # 2^-25 is half the spacing of float32 draws next to 1.
    normal: Tensor = torch.special.ndtri(uniform.clamp(2**-25, 1 - 2**-25))
    return normal


def _log_normal(deviation: float, uniform: Tensor) -> Tensor:
    return torch.exp2(deviation * _normal(uniform))


def _angle(uniform: Tensor) -> Tensor:
    return (2 * uniform - 1) * math.pi


def _gated(
    columns: Iterator[Tensor], chance: Tensor, sample: Callable[[Tensor], Tensor], neutral: float
) -> Tensor:
    """Read every image's gate and uniform number: the sample where the gate is open, else neutral, (B,)."""
    gate = next(columns) < chance
    return torch.where(gate, sample(next(columns)), neutral)


def _gated_pair(
    columns: Iterator[Tensor], chance: Tensor, sample: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    gate = next(columns) < chance
    return torch.where(gate, sample(next(columns)), 0), torch.where(gate, sample(next(columns)), 0)


def _geometry(columns: Iterator[Tensor], chance: Tensor, height: int, width: int) -> Tensor:
    """Return the maps from places in the result to places in the image, (B, 3, 3); pixels from the centre."""
    chance_rotation = 1 - (1 - chance).clamp(0, 1).sqrt()
    flip = _gated(columns, chance, lambda u: 1 - 2 * (2 * u).floor(), 1)
    quarters = _gated(columns, chance, lambda u: (4 * u).floor(), 0)
    shift_x, shift_y = _gated_pair(columns, chance, lambda u: (2 * u - 1) / 8)
    scale = _gated(columns, chance, partial(_log_normal, 0.2), 1)
    before = _gated(columns, chance_rotation, _angle, 0)
    stretch = _gated(columns, chance, partial(_log_normal, 0.2), 1)
    after = _gated(columns, chance_rotation, _angle, 0)
    drift_x, drift_y = _gated_pair(columns, chance, lambda u: _normal(u) / 8)
    # The inverse of each transform, from the first applied to the last.
    return (
        _scaling(flip, torch.ones_like(flip))
        @ _rotation(quarters * (math.pi / 2))
        @ _translation(-(shift_x * width).round(), -(shift_y * height).round())
        @ _scaling(1 / scale, 1 / scale)
        @ _rotation(before)
        @ _scaling(1 / stretch, stretch)
        @ _rotation(after)
        @ _translation(-drift_x * width, -drift_y * height)
    )


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], 1))


def _translation(x: Tensor, y: Tensor) -> Tensor:
    matrix = torch.eye(3, dtype=x.dtype, device=x.device).repeat(len(x), 1, 1)
    matrix[:, 0, 2], matrix[:, 1, 2] = x, y
    return matrix


def _rotation(angle: Tensor) -> Tensor:
    matrix = torch.eye(3, dtype=angle.dtype, device=angle.device).repeat(len(angle), 1, 1)
    matrix[:, 0, 0] = matrix[:, 1, 1] = angle.cos()
    matrix[:, 1, 0] = angle.sin()
    matrix[:, 0, 1] = -angle.sin()
    return matrix


def _colour(columns: Iterator[Tensor], chance: Tensor, channels: int) -> Tensor:
    """Return the affine maps of a pixel's channels, (B, C, C + 1): the last column is added."""
    brightness = _gated(columns, chance, lambda u: 0.2 * _normal(u), 0)[:, None, None]
    contrast = _gated(columns, chance, partial(_log_normal, 0.5), 1)[:, None, None]
    luma_flip = _gated(columns, chance, lambda u: (2 * u).floor(), 0)[:, None, None]
    hue = _gated(columns, chance, _angle, 0)[:, None, None]
    saturation = _gated(columns, chance, partial(_log_normal, 1.0), 1)[:, None, None]
    identity = torch.eye(channels, dtype=torch.float64, device=brightness.device)
    # Projects on the grey axis. All is written so that neutral parameters give exactly the identity.
    grey = torch.full_like(identity, 1 / channels)
    linear = contrast * (identity - 2 * luma_flip * grey)
    if channels == 3:
        linear = _hue_rotation(hue, grey) @ linear
    linear = (identity + (saturation - 1) * (identity - grey)) @ linear
    return torch.cat([linear, brightness * linear.sum(2, keepdim=True)], 2)


def _hue_rotation(angle: Tensor, grey: Tensor) -> Tensor:
    """Rotations about the grey axis (1, 1, 1) / sqrt(3), (B, 3, 3), by Rodrigues' formula."""
    identity = torch.eye(3, dtype=angle.dtype, device=angle.device)
    cross = angle.new_tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return angle.cos() * identity + angle.sin() * cross + (1 - angle.cos()) * grey


def _warp(images: Tensor, maps: Tensor) -> Tensor:
    height, width = images.shape[2:]
    y = torch.arange(height, dtype=maps.dtype, device=maps.device)[:, None] - (height - 1) / 2
    x = torch.arange(width, dtype=maps.dtype, device=maps.device) - (width - 1) / 2
    # Not `affine_grid`: its matrix product would be rounded to TF32 or to autocast's type where these are on.
    m = maps[:, :, :, None, None]
    source_x = m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2]
    source_y = m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2]
    grid = torch.stack([source_x * (2 / max(width - 1, 1)), source_y * (2 / max(height - 1, 1))], 3)
    return torch.where(_is_identity(maps), images, look_up(images, grid))


def _recolour(images: Tensor, maps: Tensor) -> Tensor:
    # A sum of products and not a matrix product, for the same reason as in `_warp`.
    m = maps[:, :, :, None, None]
    changed = m[:, :, -1]
    for channel in range(images.shape[1]):
        changed = changed + m[:, :, channel] * images[:, channel : channel + 1]
    return torch.where(_is_identity(maps), images, changed)


def _is_identity(maps: Tensor) -> Tensor:
    """Return which maps change nothing, bool (B, 1, 1, 1)."""
    same = maps == torch.eye(*maps.shape[1:], dtype=maps.dtype, device=maps.device)
    return same.flatten(1).all(1).view(-1, 1, 1, 1)


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
