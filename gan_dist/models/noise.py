"""Noise at each position of feature maps: a pure function of an image's latent, a layer and the position.

There is no random state, so that an image has the same noise in every batch, on every number of workers, on
every device and in an exported file. All of it but the last step is exact arithmetic with integers modulo a
prime below 2^31, whose products fit into 64 bits, and uses only what ONNX has too.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

PRIME = 2**31 - 1
LATENT_STEP = 2.0**-16
"""Latents are rounded to multiples of this before they become a seed."""
LAYERS = 64
"""Layers that have numbers of their own."""
_ROUNDS = (1013904223, 1664525)
"""Numbers added before each round of `_mix`; any would do."""


def seeds(latents: Tensor) -> Tensor:
    """Return a seed for each image's noise, int64 (B,) in [0, PRIME); no gradient passes through it.

    Args:
        latents: float (B, latent_dim), or (B, L, latent_dim) with one for each layer, of which the first
            counts. Its absolute values are below 2^40.
    """
    if latents.ndim == 3:
        latents = latents[:, 0]
    steps = (latents.detach() / LATENT_STEP).round().to(torch.int64) % PRIME
    weights = _mix(_numbers(steps.shape[1], steps))
    return _mix((steps * weights % PRIME).sum(1) % PRIME)


def normal(seeds: Tensor, layer: int, height: int, width: int) -> Tensor:
    """Return N(0, 1) noise for the maps of a layer, float32 (B, 1, height, width).

    Two uniform numbers, u and v, become two normal ones, for two positions side by side: Box and Muller 1958,
    sqrt(-2 ln u) times cos(2 pi v) and sin(2 pi v). Each uniform one is a seed + b modulo PRIME, where a and
    b belong to the layer and the positions; so over all a and b the numbers of two seeds are independent
    (Carter and Wegman 1979, proposition 7).

    Args:
        seeds: int64 (B,), from `seeds`.
        layer: Number of the layer, in [0, LAYERS).
        height: Edge of the maps.
        width: Other edge. Where both are odd, the last number has no partner.

    Raises:
        ValueError: `layer` is out of range.
    """
    if not 0 <= layer < LAYERS:
        raise ValueError(f"noise is for layers 0 to {LAYERS - 1}, not {layer}")
    pairs = _numbers((height * width + 1) // 2, seeds) * LAYERS + layer
    a, b, c, d = (_mix((pairs * 4 + kind) % PRIME) for kind in range(4))
    seed = seeds[:, None]
    u, v = (_unit((seed * factor + offset) % PRIME) for factor, offset in ((a, b), (c, d)))
    radius, angle = (-2 * u.log()).sqrt(), 2 * math.pi * v
    both = torch.stack([radius * angle.cos(), radius * angle.sin()], -1)
    return both.flatten(1)[:, : height * width].reshape(-1, 1, height, width)


def _numbers(count: int, like: Tensor) -> Tensor:
    """Return 0 to `count` - 1 on the device of `like`; `arange` would fix this device in an exported file."""
    return like.new_ones(count).cumsum(0) - 1


def _unit(numbers: Tensor) -> Tensor:
    """Return integers in [0, PRIME) as float32 in (0, 1]."""
    return (numbers + 1).float() * 2.0**-31


def _mix(numbers: Tensor) -> Tensor:
    """Return a fixed permutation of [0, PRIME), int64, that looks random.

    x to x^5 is a permutation modulo PRIME, as 5 does not divide PRIME - 1.
    """
    for constant in _ROUNDS:
        numbers = (numbers + constant) % PRIME
        squares = numbers * numbers % PRIME
        numbers = squares * squares % PRIME * numbers % PRIME
    return numbers
