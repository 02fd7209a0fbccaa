"""What a request asks for, from its query: `seed=7&class=3&truncation=0.7`."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from gan_dist.core.errors import DataError, closest
from gan_dist.models.generator import BLOCK, ImageShape

MOST = 8 * BLOCK
"""Images that one request may ask for."""
MOST_PIXELS = 2**24
"""Pixels of all images of one request: sixteen images of 1024 x 1024."""
SEEDS = 2**32


@dataclass(frozen=True)
class ImageQuery:
    """One image: image 0 of a seed, as `gan-dist sample --seeds` makes it."""

    seed: int
    label: int | None
    """Number of its class; None of a generator that has none."""
    truncation: float = 1.0


def parse_image(query: Iterable[tuple[str, str]], shape: ImageShape) -> ImageQuery:
    """Return the image that a query asks for.

    Raises:
        DataError: a parameter is unknown, given twice, out of range or no number, or the class is not one of
            the generator's.
    """
    given = _only(query, ("seed", "class", "truncation"))
    return _image(given, _whole(given, "seed", 0, 0, SEEDS - 1), shape)


def parse_images(query: Iterable[tuple[str, str]], shape: ImageShape) -> list[ImageQuery]:
    """Return the `n` images that a query asks for: one of each seed from `seed` on.

    Raises:
        DataError: see `parse_image`; or there are more than one request makes.
    """
    given = _only(query, ("seed", "n", "class", "truncation"))
    first = _whole(given, "seed", 0, 0, SEEDS - 1)
    n = _whole(given, "n", BLOCK, 1, SEEDS)
    most = min(MOST, max(1, MOST_PIXELS // shape.size.area))
    if n > most:
        area = f"{n:,} x {shape.size.area:,} = {n * shape.size.area:,} pixels"
        what = f"n={n}: one request makes {most} images of {shape.size} at most, and these are {area}"
        raise DataError(what, f"ask for n={most}, then for those from seed={first + most} on")
    if first + n > SEEDS:
        what = f"seed={first} and n={n} end at seed {first + n - 1:,}; the last one is {SEEDS - 1:,}"
        raise DataError(what, f"ask for n={SEEDS - first} or fewer")
    return [_image(given, seed, shape) for seed in range(first, first + n)]


def _image(given: Mapping[str, str], seed: int, shape: ImageShape) -> ImageQuery:
    label = seed % shape.classes if shape.classes else None
    if "class" in given:
        label = shape.class_number(given["class"])
    text = given.get("truncation", "1")
    try:
        truncation = float(text)
    except ValueError:
        truncation = math.nan
    if not math.isfinite(truncation):
        raise DataError(f"truncation={text[:40]}: a finite number is needed", "use one from 0 to 1")
    return ImageQuery(seed, label, truncation)


def _only(query: Iterable[tuple[str, str]], known: tuple[str, ...]) -> dict[str, str]:
    """Return the parameters by name; refuse unknown ones, and what is given twice."""
    given: dict[str, str] = {}
    for name, value in query:
        if name == "token":
            continue
        if name not in known:
            near = closest(name, known)
            remedy = f"the nearest is {near}" if near else f"there are {', '.join(known)}"
            raise DataError(f"there is no parameter {name[:40]}", remedy)
        if name in given:
            raise DataError(f"{name} is given twice: {given[name][:40]} and {value[:40]}", "give it once")
        given[name] = value
    return given


def _whole(given: Mapping[str, str], name: str, default: int, least: int, most: int) -> int:
    text = given.get(name, str(default))
    # int() would take ' 7', '1_000' and digits of other scripts too.
    if not (text.isascii() and text.isdigit() and len(text) <= 10 and least <= int(text) <= most):
        raise DataError(f"{name}={text[:40]} is no whole number from {least} to {most:,}", f"as in {name}=7")
    return int(text)
