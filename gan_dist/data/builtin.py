"""Image sets that need no download: real handwriting, its stacked variant, and procedural shapes.

`builtin://digits`            1,797 handwritten digits, 8x8 grey, labelled (UCI ML repository, CC BY 4.0);
                              with `?classes=5-9` those of some classes
`builtin://stacked-digits`    three digits as red, green and blue, 8x8, 1000 classes
`builtin://shapes`            coloured circles, squares and triangles of any size and number, labelled;
                              `channels=4` has them on a transparent ground
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import numpy as np
import numpy.typing as npt

from gan_dist.core import rng
from gan_dist.core.errors import DataError
from gan_dist.core.image_size import ImageSize
from gan_dist.data.batches.readers import read_all
from gan_dist.data.shards.manifest import ImageSet, Manifest, ShardInfo
from gan_dist.data.shards.rows import Rows
from gan_dist.data.shards.shard_set import ShardSet

PREFIX = "builtin://"
DIGITS = Path(__file__).parent.parent / "assets" / "digits"
GROUP_ROWS = 1024
SHAPES = ("circle", "square", "triangle")

Floats = npt.NDArray[np.float32]


def open_builtin(uri: str) -> ImageSet:
    """Return a built-in set.

    Raises:
        DataError: there is no such set, or it has no such parameter.
    """
    name, _, query = uri.removeprefix(PREFIX).partition("?")
    given = dict(parse_qsl(query, keep_blank_values=True))
    if name == "digits":
        _require_known(uri, given, ["classes"])
        return SomeDigits(*_class_range(uri, given["classes"])) if given else ShardSet(str(DIGITS))
    if name == "stacked-digits":
        return StackedDigits(**_parse_parameters(uri, given, {"count": 60_000}))
    if name == "shapes":
        return _open_shapes(uri, given)
    raise DataError(
        f"data.path={uri}: there is no such set",
        "built in are digits, stacked-digits and shapes",
        keys=("data.path",),
    )


def _open_shapes(uri: str, given: Mapping[str, str]) -> Shapes:
    numbers, resolution = dict(given), given.get("resolution", "")
    if oblong := re.fullmatch(r"[1-9]\d{0,4}x[1-9]\d{0,4}", resolution):
        del numbers["resolution"]
    values = _parse_parameters(uri, numbers, {"count": 10_000, "resolution": 64, "channels": 3})
    if values["channels"] not in (3, 4):
        raise DataError(f"data.path={uri}: channels must be 3 or 4", keys=("data.path",))
    size = ImageSize.of(resolution if oblong else values["resolution"])
    return Shapes(values["count"], size.resolution, values["channels"])


def _require_known(uri: str, given: Iterable[str], known: Iterable[str]) -> None:
    if unknown := sorted(set(given) - set(known)):
        what = f"data.path={uri}: {', '.join(unknown)} is no parameter of this set"
        raise DataError(what, f"it has: {', '.join(known)}", keys=("data.path",))


def _parse_parameters(uri: str, given: Mapping[str, str], defaults: Mapping[str, int]) -> dict[str, int]:
    _require_known(uri, given, defaults)
    for key, value in given.items():
        if not value.isdecimal() or len(value) > 9 or int(value) == 0:
            what = f"data.path={uri}: {key} must be a whole number from 1 to 999999999, not {value!r}"
            raise DataError(what, keys=("data.path",))
    return {**defaults, **{key: int(value) for key, value in given.items()}}


def _class_range(uri: str, text: str) -> tuple[int, int]:
    """Return the first and the last class of `5-9` or `7`."""
    if (match := re.fullmatch(r"([0-9])(?:-([0-9]))?", text)) and match[1] <= (match[2] or match[1]):
        return int(match[1]), int(match[2] or match[1])
    what = f"data.path={uri}: classes must be one of 0 to 9 or a range of them such as 5-9, not {text!r}"
    raise DataError(what, keys=("data.path",))


class _ComputedSet(ABC):
    """A set whose rows are computed from their index."""

    def __init__(
        self, name: str, count: int, resolution: int | str, classes: tuple[str, ...], channels: int = 3
    ) -> None:
        images = ImageSize.of(resolution)
        self.group_rows = tuple(min(GROUP_ROWS, count - start) for start in range(0, count, GROUP_ROWS))
        size = count * images.area * channels
        shard = ShardInfo(file=name, row_groups=self.group_rows, checksums=(), bytes=size, sha256="")
        self.manifest = Manifest(
            height=images.height,
            width=images.width,
            channels=channels,
            count=count,
            classes=classes,
            shards=(shard,),
            source=name,
        )

    def read_group(self, group: int) -> Rows:
        start = group * GROUP_ROWS
        return self.rows(np.arange(start, start + self.group_rows[group]))

    def read_parts(self, group: int) -> Iterator[tuple[int, Rows]]:
        yield 0, self.read_group(group)

    @abstractmethod
    def rows(self, indices: npt.NDArray[np.int64]) -> Rows:
        """Return the rows with these indices."""


class SomeDigits(_ComputedSet):
    """The digits of the classes from `first` to `last`, which are numbered from 0 and keep their names."""

    def __init__(self, first: int, last: int) -> None:
        digits = ShardSet(str(DIGITS))
        found = read_all(digits)
        if found.labels is None:
            raise DataError(f"{DIGITS} has no labels", "install the package again")
        kept = np.flatnonzero((found.labels >= first) & (found.labels <= last))
        self._rows = Rows(found.pixels[kept], found.labels[kept] - first)
        names = tuple(str(number) for number in range(first, last + 1))
        super().__init__(f"digits?classes={first}-{last}", len(kept), 8, names, channels=1)
        said = {key: getattr(digits.manifest, key) for key in ("license", "attribution")}
        self.manifest = self.manifest.model_copy(update=said)

    def rows(self, indices: npt.NDArray[np.int64]) -> Rows:
        return self._rows[indices]


class StackedDigits(_ComputedSet):
    """Three random digits, one a colour channel: 1000 classes (Srivastava et al. 2017, on digits)."""

    def __init__(self, count: int) -> None:
        classes = tuple(f"{number:03d}" for number in range(1000))
        super().__init__(f"stacked-digits?count={count}", count, 8, classes)

    @cached_property
    def _digits(self) -> Rows:
        return read_all(ShardSet(str(DIGITS)))

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in self.__dict__.items() if key != "_digits"}

    def rows(self, indices: npt.NDArray[np.int64]) -> Rows:
        draws = rng.bits(3 * self.manifest.count, 0, "stacked-digits").reshape(-1, 3)[indices]
        picks = (draws % np.uint64(len(self._digits))).astype(np.int64)
        pixels = self._digits.pixels[picks]
        if self._digits.labels is None:
            raise DataError(f"{DIGITS} has no labels", "install the package again")
        labels = self._digits.labels[picks] @ np.array([100, 10, 1])
        return Rows(np.ascontiguousarray(pixels.transpose(0, 2, 1)).reshape(len(indices), -1), labels)


class Shapes(_ComputedSet):
    """One shape on a plain ground, antialiased, with known factors: for benchmarks and tests."""

    def __init__(self, count: int, resolution: int | str, channels: int = 3) -> None:
        name = f"shapes?count={count}&resolution={resolution}" + ("&channels=4" if channels == 4 else "")
        super().__init__(name, count, resolution, SHAPES, channels)

    def factors(self, indices: npt.NDArray[np.int64]) -> dict[str, Floats]:
        """Return the factors of each image.

        `shape` is the index in `SHAPES`; `x`, `y` the centre and `size` the radius, as fractions of the edge;
        `angle` is in radians; `foreground` and `background` are RGB in [0, 1].
        """
        # One hash of the index gives all factors, so that any image can be made without the others.
        seeds = np.add.outer(indices.astype(np.uint64) * np.uint64(12), np.arange(12, dtype=np.uint64))
        uniform = (_mix(seeds) >> np.uint64(40)).astype(np.float32) / np.float32(2**24)
        return {
            "shape": np.floor(uniform[:, 0] * len(SHAPES)),
            "x": 0.3 + 0.4 * uniform[:, 1],
            "y": 0.3 + 0.4 * uniform[:, 2],
            "size": 0.12 + 0.16 * uniform[:, 3],
            "angle": 2 * np.float32(np.pi) * uniform[:, 4],
            "foreground": 0.35 + 0.65 * uniform[:, 5:8],
            "background": 0.3 * uniform[:, 8:11],
        }

    def rows(self, indices: npt.NDArray[np.int64]) -> Rows:
        factors = self.factors(indices)
        cover = _coverage(factors, self.manifest.size)[..., None]
        foreground, background = factors["foreground"][:, None, None], factors["background"][:, None, None]
        if self.manifest.channels == 4:
            values = np.concatenate([np.broadcast_to(foreground, (*cover.shape[:3], 3)), cover], 3)
            values[..., :3][np.rint(255 * cover[..., 0]) == 0] = 1
        else:
            values = background + cover * (foreground - background)
        images = np.rint(255 * values).astype(np.uint8)
        return Rows(images.reshape(len(indices), -1), factors["shape"].astype(np.int64))


def _mix(values: npt.NDArray[np.uint64]) -> npt.NDArray[np.uint64]:
    """Return a 64-bit hash of each value (the finaliser of SplitMix64, Steele et al. 2014)."""
    with np.errstate(over="ignore"):
        values = (values + np.uint64(1)) * np.uint64(0x9E3779B97F4A7C15)
        values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
        values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _coverage(factors: Mapping[str, Floats], image: ImageSize) -> Floats:
    """Return the fraction of each pixel that the shape covers, (n, H, W) in [0, 1], from signed distances.

    The unit of length is the shorter edge; places are relative to each edge.
    """
    unit = min(image)
    down, across = ((np.arange(edge, dtype=np.float32) + 0.5) / unit for edge in image)
    high, wide = (np.float32(edge / unit) for edge in image)
    angle = factors["angle"][:, None, None]
    x = across[None, None, :] - factors["x"][:, None, None] * wide
    y = down[None, :, None] - factors["y"][:, None, None] * high
    u, v = np.cos(angle) * x + np.sin(angle) * y, np.cos(angle) * y - np.sin(angle) * x
    size = factors["size"][:, None, None]
    circle = np.sqrt(u * u + v * v) - size
    square = np.maximum(np.abs(u), np.abs(v)) - size * np.float32(0.8)
    triangle = np.maximum(np.abs(u) * np.float32(0.866) + v * 0.5, -v) - size * np.float32(0.6)
    shape = factors["shape"][:, None, None]
    distance = np.where(shape == 0, circle, np.where(shape == 1, square, triangle))
    cover: Floats = np.clip(0.5 - distance * unit, 0, 1).astype(np.float32)
    return cover
