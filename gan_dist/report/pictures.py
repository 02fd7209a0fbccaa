"""Sample grids of a run as pictures in the page, few enough and small enough for a mail."""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TypeVar

from PIL import Image

from gan_dist.core import storage
from gan_dist.core.errors import AbsentError
from gan_dist.report.blocks import Block, Note, Picture, Slider, kimg

GRIDS = 24
"""Grids at most."""
LARGE, SMALL = 1024, 512
"""Largest edges in pixels of the newest grid and of the reals, and of earlier grids."""
BUDGET = 700_000
"""Bytes of all pictures of a page, of which there are fewer if they are large."""
FEWEST = 4
"""Grids that are there at any rate."""
PLAIN = 30_000
"""Bytes of a PNG that is taken as it is."""
QUALITY = 75
"""Of WebP: 1024 x 1024 pixels of photographs have about 150 kB."""
_GRID = re.compile(r"fakes_(\d+(?:\.\d+)?)\.png")

T = TypeVar("T")


def grids(run_uri: str, words: Mapping[float, str], version: str = "") -> list[Block]:
    """Return the sample grids of a run, evenly spaced over the run, and its real images beside them.

    Args:
        run_uri: Folder of a run.
        words: What is to be said of a grid by its kimg, such as the distance at that time.
        version: A picture that was read with this text is not read again.
    """
    folder, names = storage.join(run_uri, "samples"), _names(run_uri)
    if not names:
        return [Note("No samples yet: the first come with the first evaluation.")]
    *earlier, newest = names
    last = _read(storage.join(folder, newest[1]), LARGE, version)
    reals = _read(storage.join(folder, "reals.png"), LARGE, version)
    left = BUDGET - len(last or b"") - len(reals or b"")
    size = max(1, len(_read(storage.join(folder, earlier[-1][1]), SMALL, version) or b"")) if earlier else 1
    earlier = evenly(earlier, max(FEWEST, min(GRIDS, left // size)) - 1)
    pictures = []
    for at, name in (*earlier, newest):
        content = last if name == newest[1] else _read(storage.join(folder, name), SMALL, version)
        if content is not None:
            said = f"Generated after {kimg(1000 * at)}" + (f": {words[at]}" if at in words else "")
            pictures.append(Picture(content, said, 1000 * at))
    text = (
        f"The same latents throughout; {len(earlier) + 1} of {len(names)} grids, evenly spread over the run."
    )
    if damaged := len(earlier) + 1 - len(pictures):
        text += f" {damaged} of them cannot be read as pictures."
    beside = Picture(reals, "Real images") if reals else None
    return [*([Slider(pictures, beside)] if pictures else []), Note(text)]


def newest_grid(run_uri: str) -> tuple[float, str] | None:
    """Return the kimg and the URI of a run's newest grid, or None where there is none."""
    names = _names(run_uri)
    return (names[-1][0], storage.join(run_uri, "samples", names[-1][1])) if names else None


def _names(run_uri: str) -> list[tuple[float, str]]:
    """Return the grids of a run by their kimg, the newest last."""
    matches = map(_GRID.fullmatch, storage.list_names(storage.join(run_uri, "samples")))
    return sorted((float(match[1]), match[0]) for match in matches if match)


def evenly(items: Sequence[T], count: int) -> list[T]:
    """Return at most `count` items at even distances, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]


def reduce(content: bytes, edge: int = LARGE) -> bytes | None:
    """Return a PNG reduced to `edge` pixels and, unless it is small, as WebP; None if it cannot be read."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            picture.load()
            if max(picture.size) <= edge and len(content) <= PLAIN:
                return content
            reduced = picture.convert("RGB")
            reduced.thumbnail((edge, edge))
            buffer = io.BytesIO()
            reduced.save(buffer, format="WEBP", quality=QUALITY)
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return buffer.getvalue()


def _read(uri: str, edge: int, version: str) -> bytes | None:
    try:
        return _read_once(uri, edge, version) if version else _read_once.__wrapped__(uri, edge, version)
    except (AbsentError, ValueError):
        return None


@lru_cache(maxsize=256)
def _read_once(uri: str, edge: int, version: str) -> bytes:  # noqa: ARG001  # a key of the cache
    content = reduce(storage.read_bytes(uri), edge)
    if content is None:
        raise ValueError(f"{uri} is no picture")
    return content
