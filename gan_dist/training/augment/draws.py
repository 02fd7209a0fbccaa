"""Parameters of ADA's transforms from uniform numbers: gates and distributions, in float64."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
from torch import Tensor


def normal(uniform: Tensor) -> Tensor:
    """Return N(0, 1) numbers, the inverse of their distribution at uniform ones."""
    # 2^-25 is half the spacing of float32 draws next to 1.
    found: Tensor = torch.special.ndtri(uniform.clamp(2**-25, 1 - 2**-25))
    return found


def log_normal(deviation: float, uniform: Tensor) -> Tensor:
    """Return 2^N(0, deviation^2) numbers."""
    return torch.exp2(deviation * normal(uniform))


def angle(uniform: Tensor) -> Tensor:
    """Return angles between -pi and pi."""
    return (2 * uniform - 1) * math.pi


def gated(
    columns: Iterator[Tensor], chance: Tensor, sample: Callable[[Tensor], Tensor], neutral: float
) -> Tensor:
    """Read every image's gate and uniform number: the sample where the gate is open, else neutral, (B,)."""
    gate = next(columns) < chance
    return torch.where(gate, sample(next(columns)), neutral)


def gated_pair(
    columns: Iterator[Tensor], chance: Tensor, sample: Callable[[Tensor], Tensor]
) -> tuple[Tensor, Tensor]:
    """Read a gate and two uniform numbers, likewise; 0 is neutral."""
    gate = next(columns) < chance
    return torch.where(gate, sample(next(columns)), 0), torch.where(gate, sample(next(columns)), 0)
