"""ADA's geometry: maps of places, and images at the places that these maps name."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from functools import partial, reduce

import torch
from torch import Tensor

from gan_dist.training.augment.draws import angle, gated, gated_pair, log_normal, normal
from gan_dist.training.augment.grid_sample import look_up

COLUMNS = {"flip": 2, "turn": 2, "shift": 3, "geom": 11}
"""Uniform numbers for each image, by transform, in the order of application."""


def place_maps(columns: Iterator[Tensor], chances: Mapping[str, Tensor], height: int, width: int) -> Tensor:
    """Return the maps from places in the result to places in the image, (B, 3, 3); pixels from the centre.

    `chances` has the probability of each transform that there is, of `flip`, `turn`, `shift` and `geom`.
    """
    # The inverse of each transform, from the first applied to the last.
    inverses = []
    if "flip" in chances:
        flip = gated(columns, chances["flip"], lambda u: 1 - 2 * (2 * u).floor(), 1)
        inverses.append(_scaling(flip, torch.ones_like(flip)))
    if "turn" in chances:
        quarters = gated(columns, chances["turn"], lambda u: (4 * u).floor(), 0)
        inverses.append(_rotation(quarters * (math.pi / 2)))
    if "shift" in chances:
        shift_x, shift_y = gated_pair(columns, chances["shift"], lambda u: (2 * u - 1) / 8)
        inverses.append(_translation(-(shift_x * width).round(), -(shift_y * height).round()))
    if "geom" in chances:
        inverses += _general(columns, chances["geom"], height, width)
    return reduce(torch.matmul, inverses)


def _general(columns: Iterator[Tensor], chance: Tensor, height: int, width: int) -> list[Tensor]:
    chance_rotation = 1 - (1 - chance).clamp(0, 1).sqrt()
    scale = gated(columns, chance, partial(log_normal, 0.2), 1)
    before = gated(columns, chance_rotation, angle, 0)
    stretch = gated(columns, chance, partial(log_normal, 0.2), 1)
    after = gated(columns, chance_rotation, angle, 0)
    drift_x, drift_y = gated_pair(columns, chance, lambda u: normal(u) / 8)
    return [
        _scaling(1 / scale, 1 / scale),
        _rotation(before),
        _scaling(1 / stretch, stretch),
        _rotation(after),
        _translation(-drift_x * width, -drift_y * height),
    ]


def warp(images: Tensor, maps: Tensor) -> Tensor:
    """Return images at the places of their maps, bilinear, reflected about the centres of border pixels.

    Shrunk images alias. An image whose map is the identity is returned to the last bit.
    """
    height, width = images.shape[2:]
    y = torch.arange(height, dtype=maps.dtype, device=maps.device)[:, None] - (height - 1) / 2
    x = torch.arange(width, dtype=maps.dtype, device=maps.device) - (width - 1) / 2
    source_x, source_y = sources(maps, x, y)
    grid = torch.stack([source_x * (2 / max(width - 1, 1)), source_y * (2 / max(height - 1, 1))], 3)
    return torch.where(is_identity(maps), images, look_up(images, grid))


def sources(maps: Tensor, x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Return the x and y, (B, H, W), to which maps (B, 3, 3) send the places x (W,) and y (H, 1)."""
    # Not `affine_grid`: its matrix product would be rounded to TF32 or to autocast's type where these are on.
    m = maps[:, :, :, None, None]
    return m[:, 0, 0] * x + m[:, 0, 1] * y + m[:, 0, 2], m[:, 1, 0] * x + m[:, 1, 1] * y + m[:, 1, 2]


def is_identity(maps: Tensor) -> Tensor:
    """Return which maps (B, N, M) are the identity, bool (B, 1, 1, 1)."""
    same = maps == torch.eye(*maps.shape[1:], dtype=maps.dtype, device=maps.device)
    return same.flatten(1).all(1).view(-1, 1, 1, 1)


def _scaling(x: Tensor, y: Tensor) -> Tensor:
    return torch.diag_embed(torch.stack([x, y, torch.ones_like(x)], 1))


def _translation(x: Tensor, y: Tensor) -> Tensor:
    matrix = torch.eye(3, dtype=x.dtype, device=x.device).repeat(len(x), 1, 1)
    matrix[:, 0, 2], matrix[:, 1, 2] = x, y
    return matrix


def _rotation(radians: Tensor) -> Tensor:
    matrix = torch.eye(3, dtype=radians.dtype, device=radians.device).repeat(len(radians), 1, 1)
    matrix[:, 0, 0] = matrix[:, 1, 1] = radians.cos()
    matrix[:, 1, 0] = radians.sin()
    matrix[:, 0, 1] = -radians.sin()
    return matrix
