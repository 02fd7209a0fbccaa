"""ADA's colours: affine maps of the channels of a pixel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import torch
from torch import Tensor

from gan_dist.training.augment.draws import angle, gated, log_normal, normal
from gan_dist.training.augment.geometry import is_identity

COLUMNS = 10
"""Uniform numbers for each image."""


def channel_maps(columns: Iterator[Tensor], chance: Tensor, channels: int) -> Tensor:
    """Return the affine maps of a pixel's channels, (B, C, C + 1): the last column is added.

    Of four channels the last is alpha, which stays as it is.
    """
    if channels == 4:
        colours = channel_maps(columns, chance, 3)
        maps = torch.eye(4, 5, dtype=colours.dtype, device=colours.device).repeat(len(colours), 1, 1)
        maps[:, :3, :3], maps[:, :3, 4] = colours[:, :, :3], colours[:, :, 3]
        return maps
    brightness = gated(columns, chance, lambda u: 0.2 * normal(u), 0)[:, None, None]
    contrast = gated(columns, chance, partial(log_normal, 0.5), 1)[:, None, None]
    luma_flip = gated(columns, chance, lambda u: (2 * u).floor(), 0)[:, None, None]
    hue = gated(columns, chance, angle, 0)[:, None, None]
    saturation = gated(columns, chance, partial(log_normal, 1.0), 1)[:, None, None]
    identity = torch.eye(channels, dtype=torch.float64, device=brightness.device)
    # Projects on the grey axis. All is written so that neutral parameters give exactly the identity.
    grey = torch.full_like(identity, 1 / channels)
    linear = contrast * (identity - 2 * luma_flip * grey)
    if channels == 3:
        linear = _hue_rotation(hue, grey) @ linear
    linear = (identity + (saturation - 1) * (identity - grey)) @ linear
    return torch.cat([linear, brightness * linear.sum(2, keepdim=True)], 2)


def recolour(images: Tensor, maps: Tensor) -> Tensor:
    """Return images (B, C, H, W) whose pixels are changed by maps (B, C, C + 1)."""
    # A sum of products and not a matrix product, for the same reason as in `geometry.sources`.
    m = maps[:, :, :, None, None]
    changed = m[:, :, -1]
    for channel in range(images.shape[1]):
        changed = changed + m[:, :, channel] * images[:, channel : channel + 1]
    return torch.where(is_identity(maps), images, changed)


def _hue_rotation(radians: Tensor, grey: Tensor) -> Tensor:
    """Rotations about the grey axis (1, 1, 1) / sqrt(3), (B, 3, 3), by Rodrigues' formula."""
    identity = torch.eye(3, dtype=radians.dtype, device=radians.device)
    cross = radians.new_tensor([[0, -1, 1], [1, 0, -1], [-1, 1, 0]]) / math.sqrt(3)
    return radians.cos() * identity + radians.sin() * cross + (1 - radians.cos()) * grey
