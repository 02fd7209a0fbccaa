"""Sample grids of a run as PNGs in the page, few enough and small enough for a mail."""

from __future__ import annotations

import base64
import io
import re
from typing import TypeVar

from PIL import Image

from gan_dist.core import storage
from gan_dist.report.blocks import Block, Note, Picture, Pictures, kimg

EARLIER = 11
"""Number of grids besides the newest."""
LARGE, SMALL = 1200, 560
"""Largest edges of pictures in pixels."""
_GRID = re.compile(r"fakes_(\d+(?:\.\d+)?)\.png")

T = TypeVar("T")


def grids(run_uri: str) -> list[Block]:
    """Return the newest sample grid of a run, large, and earlier ones, evenly spaced over the run."""
    folder = storage.join(run_uri, "samples")
    matches = map(_GRID.fullmatch, storage.list_names(folder))
    names = sorted((float(match[1]), match[0]) for match in matches if match)
    if not names:
        return [Note("No samples yet: the first come with the first evaluation.")]
    *earlier, newest = names
    chosen = [*evenly(earlier, EARLIER), newest]
    pictures = []
    for at, name in chosen:
        content, edge = storage.read_bytes(storage.join(folder, name)), LARGE if name == newest[1] else SMALL
        if picture := embed(content, f"after {kimg(1000 * at)}", edge):
            pictures.append(picture)
    blocks: list[Block] = [Pictures(pictures[-1:], large=True), Pictures(pictures[:-1])]
    text = f"The same latents throughout; {len(chosen)} of {len(names)} grids, evenly spread over the run, "
    text += f"are in this page, the newest reduced to {LARGE} pixels and the others to {SMALL} if larger."
    if damaged := len(chosen) - len(pictures):
        text += f" {damaged} of them cannot be read as pictures."
    return [*blocks, Note(text)]


def evenly(items: list[T], count: int) -> list[T]:
    """Return at most `count` items at even distances, the first and the last among them."""
    if len(items) <= count:
        return items
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]


def embed(content: bytes, caption: str, edge: int = LARGE) -> Picture | None:
    """Return a PNG as a picture of the page, reduced to `edge` pixels; None if it cannot be read."""
    try:
        with Image.open(io.BytesIO(content), formats=["PNG"]) as picture:
            picture.load()
            if max(picture.size) > edge:
                reduced = picture.convert("RGB")
                reduced.thumbnail((edge, edge))
                buffer = io.BytesIO()
                reduced.save(buffer, format="PNG", optimize=True)
                content = buffer.getvalue()
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return None
    return Picture(f"data:image/png;base64,{base64.b64encode(content).decode()}", caption)
