"""Pictures that move, as WebP, GIF or MP4; all of them loop where the format can say so."""

from __future__ import annotations

import importlib.util
import io
from collections.abc import Iterable, Iterator
from itertools import chain, pairwise
from pathlib import PurePath

from PIL import Image

from gan_dist.core import storage
from gan_dist.core.errors import GanDistError
from gan_dist.core.storage.redaction import split_query

SUFFIXES = (".webp", ".gif", ".mp4")
SMALLEST = 256
"""Pixels of an edge to which smaller pictures are enlarged, by an integer factor."""
FASTEST_GIF = 50
"""Pictures a second; browsers show what a GIF wants faster than this at 10 a second."""
MOST_BYTES = 2**31
"""Pixels of all pictures of a WebP or a GIF, which are in memory at once."""
CRF = 16
"""Quality of H.264, from 0 (lossless) to 51; 18 is commonly called visually lossless."""


def file_type(uri: str) -> str:
    """Return the ending of a path or URI, one of SUFFIXES. Raises GanDistError for another ending."""
    suffix = PurePath(split_query(uri)[0]).suffix.lower()
    if suffix not in SUFFIXES:
        had = f"not {suffix}" if suffix else "and the name has no ending"
        raise GanDistError(
            f"{uri}: animations are WebP, GIF or MP4, {had}", "end the name in .webp, .gif or .mp4"
        )
    return suffix


def require_encoder(uri: str, fps: int) -> None:
    """Raise a GanDistError if `uri` has no known ending, or its format no encoder here or no such rate."""
    suffix = file_type(uri)
    if suffix == ".gif" and fps > FASTEST_GIF:
        what = f"{uri}: {fps} pictures a second, and browsers play GIFs with at most {FASTEST_GIF}"
        raise GanDistError(what, f"set --fps {FASTEST_GIF} or lower, or end the name in .webp or .mp4")
    if suffix == ".mp4" and importlib.util.find_spec("av") is None:
        remedy = 'pip install "gan-dist[mp4]", or end the name in .webp or .gif'
        raise GanDistError(f"{uri}: MP4 needs an encoder, and PyAV (av) is not installed", remedy)


def require_room(uri: str, count: int, size: tuple[int, int], channels: int) -> None:
    """Raise a GanDistError if `count` pictures of a size are more than a WebP or a GIF is made of here."""
    width, height = enlarged(size)
    needed = count * width * height * channels
    if file_type(uri) != ".mp4" and needed > MOST_BYTES:
        raise GanDistError(
            f"{uri}: {count:,} frames of {width}x{height} pixels are {needed / 2**30:.1f} GiB in memory, "
            f"more than {MOST_BYTES / 2**30:g}",
            "set fewer --frames or images, or end the name in .mp4, which is written frame by frame",
        )


def write_animation(uri: str, pictures: Iterable[Image.Image], fps: int) -> None:
    """Write pictures of one size and mode, RGB, RGBA or L, as a file whose ending says the format.

    WebP is lossless and may be RGBA, which is laid on white for the others. GIF is lossless for grey
    pictures; colours become 256 for each picture of a GIF. MP4 is H.264. Pictures below SMALLEST pixels are
    enlarged by an integer factor.

    Args:
        uri: Ends in one of SUFFIXES.
        pictures: At least one. An MP4 has only a few of them in memory at once.
        fps: Pictures a second.

    Raises:
        GanDistError: no such format or rate, or no encoder for it.
        StorageError: it cannot be written.
    """
    require_encoder(uri, fps)
    suffix = file_type(uri)
    if suffix != ".webp":
        pictures = map(_on_white, pictures)
    shown = (picture.resize(enlarged(picture.size), Image.Resampling.NEAREST) for picture in pictures)
    buffer = io.BytesIO()
    if suffix == ".mp4":
        _write_mp4(buffer, shown, fps)
    else:
        first, *others = shown
        lossless = {"lossless": True, "method": 4} if suffix == ".webp" else {}
        unit_ms = 1 if suffix == ".webp" else 10
        first.save(
            buffer,
            format=suffix[1:].upper(),
            save_all=True,
            append_images=others,
            duration=durations_ms(1 + len(others), fps, unit_ms),
            loop=0,
            **lossless,
        )
    storage.write_bytes(uri, buffer.getvalue())


def _on_white(picture: Image.Image) -> Image.Image:
    if picture.mode != "RGBA":
        return picture
    return Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB")


def enlarged(size: tuple[int, int]) -> tuple[int, int]:
    """Return the size of an animation's frames: `size`, or a multiple of it if it is small."""
    factor = max(1, SMALLEST // max(size))
    return size[0] * factor, size[1] * factor


def durations_ms(count: int, fps: int, unit_ms: int) -> list[int]:
    """Return how long each picture is shown, in multiples of a unit whose sum is right to half of one."""
    ends = [round(number * 1000 / fps / unit_ms) * unit_ms for number in range(count + 1)]
    return [after - before for before, after in pairwise(ends)]


def _write_mp4(buffer: io.BytesIO, pictures: Iterator[Image.Image], fps: int) -> None:
    import av

    first = next(pictures)
    # Of H.264 as all players have it, colours have half the resolution, so edges are even.
    size = first.width + first.width % 2, first.height + first.height % 2
    with av.open(buffer, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": str(CRF)})
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        for picture in chain([first], pictures):
            even = picture.convert("RGB").resize(size, Image.Resampling.NEAREST)
            container.mux(stream.encode(av.VideoFrame.from_image(even)))
        container.mux(stream.encode())
