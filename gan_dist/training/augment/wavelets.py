"""ADA's two uses of wavelets: geometry without aliasing, and gains of four bands of frequencies.

Filters are sums of shifted images and neither convolutions nor matrix products: so an image does not depend
on its batch, not even in the last bit, and nothing is rounded to TF32 or to autocast's type.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gan_dist.training.augment.draws import gated, log_normal
from gan_dist.training.augment.geometry import is_identity, sources
from gan_dist.training.augment.grid_sample import look_up

SYM6 = (
    0.015404109327027373,
    0.0034907120842174702,
    -0.11799011114819057,
    -0.048311742585633,
    0.4910559419267466,
    0.787641141030194,
    0.3379294217276218,
    -0.07263752278646252,
    -0.021060292512300564,
    0.04472490177066578,
    0.0017677118642428036,
    -0.007800708325034148,
)
"""Low-pass filter of the orthogonal wavelet of Daubechies with six vanishing moments that is least asymmetric
(Daubechies 1992, table 6.3)."""
DELAY = sum(place * tap for place, tap in enumerate(SYM6)) / sum(SYM6)
"""Middle of that filter: by this a slope that it filters is shifted. So flipped images stay in place."""
_REACH = len(SYM6) // 2 - 1
"""How far a pixel's filter reaches beyond its own two places at twice the resolution."""
_SUPPORT = len(SYM6) // 4
"""How far beyond its own pixel the filter reaches at a place of twice the resolution, in pixels."""
MARGIN = 3
"""Pixels by which an image is continued before it is filtered. Pixels at its border are reduced from these
too, wherever they are moved, so that translations by whole pixels are exact."""

POWER = (10 / 13, 1 / 13, 1 / 13, 1 / 13)
"""Expected share of each band in the power of an image, from the lowest frequencies on."""


def filtered_warp(images: Tensor, maps: Tensor) -> Tensor:
    """Return images at the places of their maps, without aliasing: Karras et al. 2020 (ADA), appendix B.

    The image, continued by reflection about the centres of its border pixels, is interpolated to twice the
    resolution with the low-pass filter SYM6, looked up bilinearly at the places of a result of twice the
    resolution, and reduced with the same filter. It is continued by MARGIN pixels; places beyond are looked
    up at their mirror images. An image whose map is the identity is returned to the last bit.

    Args:
        images: Float (B, C, H, W).
        maps: (B, 3, 3), of the images' type, from places in the result to places in the image, in pixels from
            the centre.
    """
    height, width = images.shape[2:]
    doubled = _double(_double(images, 2), 3)
    x, y = (_fine_places(size, maps) for size in (width, height))
    source_x, source_y = sources(maps, x, y[:, None])
    grid = torch.stack([_points(source_x, width), _points(source_y, height)], 3)
    return torch.where(is_identity(maps), images, _halve(_halve(look_up(doubled, grid), 2), 3))


def _fine_places(size: int, like: Tensor) -> Tensor:
    """Return places at twice the resolution, in pixels from the centre, with _REACH more on both sides."""
    places = torch.arange(2 * size + 2 * _REACH, dtype=like.dtype, device=like.device)
    return (places - DELAY) / 2 - (size - 1) / 2


def _points(places: Tensor, size: int) -> Tensor:
    """Return places along an axis, in pixels from the centre, as `look_up` names them in a doubled image."""
    pixels = places + (size - 1) / 2
    period = max(2 * (size - 1), 1)
    behind = pixels.remainder(period)
    mirrored = torch.minimum(behind, period - behind)
    near = (pixels >= -MARGIN) & (pixels <= size - 1 + MARGIN)
    numbers = 2 * (torch.where(near, pixels, mirrored) + MARGIN) + (DELAY - _REACH)
    return numbers * (2 / (2 * (size + 2 * MARGIN) - 1)) - 1


def _double(images: Tensor, dim: int) -> Tensor:
    """Return reflected images at twice the resolution along `dim`, with MARGIN pixels more on both sides.

    Number v of the result lies (v + _REACH - DELAY) / 2 - MARGIN pixels behind the first pixel.
    """
    count = images.shape[dim] + 2 * MARGIN
    around = reflect(images, MARGIN + _SUPPORT, MARGIN + _SUPPORT, dim)
    halves = []
    for odd in (0, 1):
        half = torch.zeros((), dtype=images.dtype, device=images.device)
        # Pixel n adds SYM6[v - 2 n + 5] to number v.
        for tap in range(1 - odd, len(SYM6), 2):
            ahead = (_REACH + odd - tap) // 2
            half = half + math.sqrt(2) * SYM6[tap] * around.narrow(dim, _SUPPORT + ahead, count)
        halves.append(half)
    return torch.stack(halves, dim + 1).flatten(dim, dim + 1)


def _halve(images: Tensor, dim: int) -> Tensor:
    """Return images reduced to half the resolution along `dim`; they reach _REACH beyond it on both sides."""
    count = (images.shape[dim] - 2 * _REACH) // 2
    pairs = images.unflatten(dim, (images.shape[dim] // 2, 2))
    total = torch.zeros((), dtype=images.dtype, device=images.device)
    for tap, weight in enumerate(SYM6):
        part = pairs.select(dim + 1, tap % 2).narrow(dim, tap // 2, count)
        total = total + weight / math.sqrt(2) * part
    return total


def reflect(images: Tensor, before: int, after: int, dim: int) -> Tensor:
    """Return images continued by reflection about the centres of border pixels, however far."""
    size = images.shape[dim]
    # Not by indices: on GPUs the gradient of a look-up adds in no fixed order.
    period = images
    if size > 1:
        period = torch.cat([images, images.narrow(dim, 1, size - 2).flip(dim)], dim)
    length = period.shape[dim]
    start = -before % length
    copies = -(-(start + before + size + after) // length)
    return torch.cat([period] * copies, dim).narrow(dim, start, before + size + after)


def band_gains(columns: Iterator[Tensor], chance: Tensor) -> Tensor:
    """Return the gains of four bands of frequencies, (B, 4), from the lowest on: ADA's paper, appendix B.

    Each band is amplified by 2^N(0, 1) with the probability `chance`; then all four are divided so that the
    power that is expected of an image, by POWER, stays the same.
    """
    gains = [torch.ones_like(chance)] * len(POWER)
    for band, power in enumerate(POWER):
        amplified = gated(columns, chance, partial(log_normal, 1.0), 1)
        # The sum of POWER times the squared gains, 1 but for this band.
        norm = (1 + power * (amplified.square() - 1)).sqrt()
        gains = [gain * (amplified if other == band else 1) / norm for other, gain in enumerate(gains)]
    return torch.stack(gains, 1)


def filter_bands(images: Tensor, gains: Tensor) -> Tensor:
    """Return images whose four bands of frequencies are amplified, along both axes.

    The bands divide at 1/8, 1/4 and 1/2 of the highest frequency, by the wavelet sym2; together they are the
    image. It is continued by reflection. An image whose gains are 1 is returned to the last bit.

    Args:
        images: Float (B, C, H, W).
        gains: (B, 4), of any type.
    """
    weights = gains[:, :, None].double()
    bands = torch.tensor(BANDS, device=gains.device)
    taps = sum(weights[:, band] * bands[band] for band in range(1, len(BANDS))) + weights[:, 0] * bands[0]
    taps = taps.to(images)[:, :, None, None, None]
    filtered = _filter(_filter(images, taps, 2), taps, 3)
    same = (gains == 1).all(1).to(images.device).view(-1, 1, 1, 1)
    return torch.where(same, images, filtered)


def _filter(images: Tensor, taps: Tensor, dim: int) -> Tensor:
    """Filter along `dim` by symmetric filters; `taps` (B, n, 1, 1, 1) are their middle and one side."""
    size, reach = images.shape[dim], taps.shape[1] - 1
    around = reflect(images, reach, reach, dim)
    total = taps[:, 0] * images
    for away in range(1, reach + 1):
        pair = around.narrow(dim, reach - away, size) + around.narrow(dim, reach + away, size)
        total = total + taps[:, away] * pair
    return total


def _bands() -> NDArray[np.float64]:
    """Return each band's symmetric filter, its middle and one side.

    With L(z) = H(z) H(1/z) / 2 for the low-pass filter H of sym2, and 1 - L(z) for what it leaves, the bands
    from the highest on are 1 - L(z), L(z) (1 - L(z^2)), L(z) L(z^2) (1 - L(z^4)) and L(z) L(z^2) L(z^4).
    """
    low = np.array([-1, 0, 9, 16, 9, 0, -1]) / 32
    high = (np.arange(len(low)) == len(low) // 2) - low
    bands, below = [], np.ones(1)
    for step in (1, 2, 4):
        spread = np.zeros((2, step * (len(low) - 1) + 1))
        spread[:, ::step] = low, high
        bands.append(np.convolve(below, spread[1]))
        below = np.convolve(below, spread[0])
    sides = [whole[len(whole) // 2 :] for whole in (below, *reversed(bands))]
    return np.stack([np.pad(side, (0, len(sides[0]) - len(side))) for side in sides])


BANDS = _bands()
