"""A run's sample grids as PNGs within the page, few enough and small enough to be mailed."""

from __future__ import annotations

import base64
import io
import re

from PIL import Image

from gan_dist.core import storage
from gan_dist.report.blocks import Block, Note, Picture, Pictures, kimg

EARLIER = 11
"""Grids that are shown beside the newest."""
LARGE, SMALL = 1200, 560
"""Edges in pixels to which pictures are reduced."""


def grids(run_uri: str) -> list[Block]:
    """Return the newest sample grid of a run, large, and earlier ones, evenly spread over the run."""
    names = [
        name for name in storage.list_names(storage.join(run_uri, "samples")) if _images(name) is not None
    ]
    if not names:
        return [Note("No samples yet: the first come with the first evaluation.")]
    names.sort(key=_images)  # type: ignore[arg-type]  # those without are left out
    chosen = evenly(names[:-1], EARLIER)
    found = [_picture(run_uri, name, LARGE if name == names[-1] else SMALL) for name in [*chosen, names[-1]]]
    whole = [picture for picture in found if picture]
    blocks: list[Block] = [Pictures(whole[-1:], large=True), Pictures(whole[:-1])]
    said = f"The same latents throughout; {len(found)} of {len(names)} grids, evenly spread over the run, "
    said += f"are in this page, the newest reduced to {LARGE} pixels and the others to {SMALL} if larger."
    if damaged := len(found) - len(whole):
        said += f" {damaged} of them cannot be read as pictures."
    return [*blocks, Note(said)]


def evenly(items: list[str], count: int) -> list[str]:
    """Return `count` items or fewer, the first and the last among them, with even distances between."""
    if len(items) <= count:
        return items
    return [items[round(place * (len(items) - 1) / (count - 1))] for place in range(count)]


def embedded(content: bytes, caption: str, edge: int = LARGE) -> Picture | None:
    """Return a PNG as a part of the page, reduced to `edge` pixels; None if it cannot be read."""
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


def _picture(run_uri: str, name: str, edge: int) -> Picture | None:
    content = storage.read_bytes(storage.join(run_uri, "samples", name))
    return embedded(content, f"after {kimg(1000 * (_images(name) or 0))}", edge)


def _images(name: str) -> float | None:
    """Return thousands of images, by a grid's name."""
    found = re.fullmatch(r"fakes_(\d+(\.\d+)?)\.png", name)
    return float(found[1]) if found else None
