"""Values that change within a run: a key's mapping of kimg to value, constant from each kimg to the next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from gan_dist.config.yaml12 import is_number
from gan_dist.core.errors import Problem

Points: TypeAlias = tuple[tuple[float, float], ...]
"""Kimg from which a value holds, and the value; from 0 on, in order."""

CHANGEABLE = (
    *(f"optim.{network}.{key}" for network in "gd" for key in ("lr", "beta1", "beta2")),
    "optim.clip_norm",
    *(f"loss.{key}" for key in ("gp", "dragan", "r1", "r2", "path_length", "clip", "label_smoothing")),
    *(f"loss.{key}" for key in ("instance_noise", "lecam", "lecam_decay")),
    *(f"data.{key}" for key in ("augment_p", "augment_target", "augment_kimg")),
    "ema.half_life_kimg",
)
"""Keys that may change within a run: numbers that no network's, optimizer's or checkpoint's shape follows,
and that each step reads anew. `Step.begin_round` gives them to what reads them."""
ON_OR_OFF = ("loss.gp", "loss.dragan", "loss.r1", "loss.r2", "loss.path_length")
"""Of these the ones that decide how the networks are wrapped and compiled: they stay 0, or above 0."""


def listed(keys: Iterable[str] = CHANGEABLE) -> str:
    """Return the keys that can change within a run, for a message."""
    return f"those that can are {', '.join(keys)}"


def read_points(key: str, written: Mapping[object, object]) -> Points | Problem:
    """Return the points of a key's mapping, without those that change nothing; or what is wrong with it.

    Whether the values are in the key's range is checked with the rest of the configuration.
    """
    if key not in CHANGEABLE:
        return Problem(f"{key} cannot change within a run", listed(), (key,))
    example = f"write kimg and values, such as {key}: {{0: 0.1, 40: 0.05}}"
    points: list[tuple[float, float]] = []
    for at, value in written.items():
        kimg = _kimg(at)
        if kimg is None:
            return Problem(f"{key}: {at} is no number of kimg", example, (key,))
        if isinstance(value, bool) or not isinstance(value, int | float):
            return Problem(f"{key} at {kimg:g} kimg is {value!r}, which is no number", example, (key,))
        if not points and kimg:
            what = f"{key}: its first value is that at {kimg:g} kimg, and a run begins at 0"
            return Problem(what, f"add a value at 0: {{0: {value}, ...}}", (key,))
        if points and kimg <= points[-1][0]:
            what = f"{key}: {kimg:g} kimg comes after {points[-1][0]:g} kimg"
            return Problem(what, "give them in order, each once", (key,))
        points.append(
            (kimg, float(max(-(10**300), min(value, 10**300))) if isinstance(value, int) else value)
        )
    if not points:
        return Problem(f"{key} is an empty mapping", example, (key,))
    if key in ON_OR_OFF and len({value > 0 for _, value in points}) > 1:
        zero = next(kimg for kimg, value in points if value <= 0)
        what = f"{key} is 0 at {zero:g} kimg and not at others: a penalty acts in the whole run or in none"
        return Problem(what, "use a small value in place of 0", (key,))
    return merged(points)


def merged(points: Iterable[tuple[float, float]]) -> Points:
    """Return points without those that have the value of the one before."""
    kept: list[tuple[float, float]] = []
    for kimg, value in points:
        if not kept or value != kept[-1][1]:
            kept.append((kimg, value))
    return tuple(kept)


def value_at(points: Points, images: int) -> float:
    """Return the value of the last point at or before `images` images."""
    return [value for kimg, value in points if images_of(kimg) <= images][-1]


def written(points: Points) -> dict[float, float]:
    """Return points as a user writes them; whole kimg without a decimal point."""
    return {int(kimg) if kimg.is_integer() else kimg: value for kimg, value in points}


def whole_rounds(kimg: float, round_images: int) -> int:
    """Return kimg in images, rounded up to whole rounds of so many."""
    return -(-images_of(kimg) // round_images) * round_images


def images_of(kimg: float) -> int:
    """Return kimg in images."""
    return round(1000 * kimg)


def _kimg(at: object) -> float | None:
    try:
        kimg = float(str(at)) if is_number(str(at)) and str(at).isascii() else -1.0
    except ValueError:  # a number of YAML's alone, such as .nan or 0x10
        return None
    return kimg if 0 <= kimg < 1e12 else None
