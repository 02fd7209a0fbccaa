"""From the bytes of an image file to pixels of one size, or the reason why not.

Decided here, once, for every set:
  the content says what the format is, not the name; formats outside `FORMATS` are rejected;
  EXIF orientation is applied; colour profiles are ignored; CMYK and palettes become RGB;
  transparent parts are laid on white; where alpha is a channel, they are kept, and invisible colours become
  white; samples of 9 to 16 bits are scaled to 8 by the depth that the file declares, never clipped;
  metadata that cannot be read is passed over;
  of more than `Decoding.max_pixels` pixels a JPEG is decoded at half its size, and another format rejected;
  pictures that move, or have several pages, are rejected: which frame to take is the owner's to say;
  of another aspect, the largest centred part is cut out, or borders are added, or the aspect is changed; and
  that is resized with an antialiasing filter, larger or smaller.
"""

from __future__ import annotations

import io
import warnings
import zlib
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, JpegImagePlugin, UnidentifiedImageError

from gan_dist.core.image_size import ImageSize, border, crop_box, inner_size
from gan_dist.data.packing.resize import resize

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
PIXEL_LIMIT = 89_478_485
"""A file of a few kilobytes can claim any size; Pillow's own limit, a quarter of a gigabyte as RGB."""
BOMBS = (Image.DecompressionBombError, Image.DecompressionBombWarning)
REASON_LENGTH = 200
PNG_METADATA = b"iCCP tEXt zTXt iTXt eXIf tIME pHYs gAMA cHRM sRGB cICP hIST sPLT bKGD".split()
BITS_PER_SAMPLE, PHOTOMETRIC, MAX_SAMPLE = 258, 262, 281  # tags of TIFF
DARK = 16
"""The largest value, of 255, where only 12 of 16 bits are used."""


class RejectedError(Exception):
    """An image that cannot be used; the message is the reason, as the quarantine lists it."""


@dataclass(frozen=True)
class Decoding:
    """What images are turned into."""

    resolution: int | str
    """Edge of a square in pixels, or `WIDTHxHEIGHT`."""
    channels: int = 3
    """3 (RGB), 1 (grey, ITU-R 601 luma) or 4 (RGB and alpha)."""
    filter: str = "lanczos"
    """A key of `resize.FILTERS`."""
    max_pixels: int = PIXEL_LIMIT
    """The most pixels of a file; decoding one takes 10 to 20 bytes of memory a pixel."""
    fit: str = "crop"
    """How images of another aspect fit: a value of `image_size.Fit`."""


class Decoded(NamedTuple):
    """Pixels, uint8 (H, W, C); whether the picture was smaller; whether 16 bits hold at most 12 used ones."""

    pixels: npt.NDArray[np.uint8]
    enlarged: bool
    dark: bool = False


def decode(content: bytes, decoding: Decoding) -> Decoded:
    """Return an image file's pixels.

    Raises:
        RejectedError: it is no whole, still picture of a known format; content raises nothing else.
    """
    # Pillow asks for it wherever it makes a picture, as in resizing; a process makes one set at a time.
    Image.MAX_IMAGE_PIXELS = decoding.max_pixels
    picture, deep = _picture(content, decoding)
    # What fails from here on, such as a library that cannot be loaded, is no fault of the picture.
    size, target = ImageSize(picture.height, picture.width), ImageSize.of(decoding.resolution)
    left, top, right, bottom = (0, 0, size.width, size.height)
    if decoding.fit == "crop":
        left, top, right, bottom = crop_box(size, target)
    inner = inner_size(size, target) if decoding.fit.startswith("pad") else target
    pixels = resize(picture, (left, top, right, bottom), inner.resolution, decoding.filter)
    if decoding.channels == 4:  # what no one sees is not to be learned
        pixels = np.where(pixels[..., 3:] > 0, pixels, np.array([255, 255, 255, 0], np.uint8))
    if inner != target:
        pixels = _padded(pixels, target, border(decoding.fit, decoding.channels))
    dark = deep and int(np.asarray(picture.convert("RGB")).max()) <= DARK
    return Decoded(pixels, right - left < inner.width or bottom - top < inner.height, dark)


def _padded(
    pixels: npt.NDArray[np.uint8], target: ImageSize, colour: tuple[int, ...]
) -> npt.NDArray[np.uint8]:
    height, width, channels = pixels.shape
    padded = np.empty((*target, channels), np.uint8)
    padded[:] = colour
    top, left = (target.height - height) // 2, (target.width - width) // 2
    padded[top : top + height, left : left + width] = pixels
    return padded


def shorter_edge(content: bytes) -> int | None:
    """Return the shorter edge of an image file in pixels, from its header; None where it has none."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            with _opened(content) as image:
                return min(image.size)
    except Exception:
        return None  # whoever decodes it says why


def _picture(content: bytes, decoding: Decoding) -> tuple[Image.Image, bool]:
    """Return an image file's picture, upright, in mode RGB, L or RGBA; whether its samples have 16 bits."""
    if not content:
        raise RejectedError("empty file")
    try:
        with warnings.catch_warnings():
            # Pillow warns of damaged metadata, which does not touch the pixels.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            try:
                return _loaded(content, decoding)
            except Exception:
                # What is wrong may be in metadata, and the pixels whole.
                with suppress(Exception):
                    return _loaded(_without_metadata(content), decoding)
                raise
    except RejectedError:
        raise
    except UnidentifiedImageError:
        raise RejectedError(f"no image of a supported format ({', '.join(FORMATS)})") from None
    except BOMBS:
        raise _too_large(decoding.max_pixels) from None
    except Exception as error:
        # Decoders meet hostile or broken bytes with nearly every type of exception.
        reason = " ".join(f"damaged: {error or type(error).__name__}".split())
        raise RejectedError(reason[:REASON_LENGTH]) from None


def _opened(content: bytes) -> Image.Image:
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except BOMBS:
        if not content.startswith(b"\xff\xd8\xff"):
            raise
        image = JpegImagePlugin.JpegImageFile(io.BytesIO(content))  # of any size, before it is decoded
        image.draft(None, (image.width // 2, image.height // 2))
        return image


def _too_large(limit: int) -> RejectedError:
    return RejectedError(
        f"too large: more than {limit:,} pixels, or four times as many in a JPEG; scale it down, or raise "
        "--max-megapixels where there is memory"
    )


def _loaded(content: bytes, decoding: Decoding) -> tuple[Image.Image, bool]:
    with _opened(content) as image:
        if image.width * image.height > decoding.max_pixels:
            raise _too_large(decoding.max_pixels)
        # A camera's MPO is a JPEG followed by previews or the other eye's view: the first is the picture.
        if image.format != "MPO" and getattr(image, "is_animated", False):
            raise RejectedError("several pages" if image.format == "TIFF" else "animated")
        if image.format == "PNG":
            # The checksum of every chunk: decoding alone passes over those of the pixels.
            with Image.open(io.BytesIO(content), formats=("PNG",)) as unread:
                unread.verify()
        image.load()
        # The pixels are whole; metadata that cannot be read says nothing about their orientation.
        with suppress(Exception):
            ImageOps.exif_transpose(image, in_place=True)
        return _in_mode(image, decoding.channels, content), _has_16_bits(image, content)


def _has_16_bits(image: Image.Image, content: bytes) -> bool:
    tags = getattr(image, "tag_v2", {})
    depth = content[24] if image.format == "PNG" else max(tags.get(BITS_PER_SAMPLE, (8,)))
    return bool(depth > 8 or image.mode == "I")


def _in_mode(image: Image.Image, channels: int, content: bytes) -> Image.Image:
    """Return a picture of 8 bits in mode RGB or L, with transparent parts laid on white, or in mode RGBA."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM"):
        image = _from_16_bits(image, content)
    elif image.mode == "LAB":
        raise RejectedError("its colours are CIELab; convert it to RGB")
    elif image.mode in ("I", "F"):
        kind = "floats" if image.mode == "F" else "32-bit integers"
        raise RejectedError(f"its pixels are {kind}, of which the range is not known")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        if channels == 4:
            return over
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    elif image.mode not in ("RGB", "L"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    wanted = {1: "L", 3: "RGB", 4: "RGBA"}[channels]
    return image if image.mode == wanted else image.convert(wanted)  # which copies where it changes nothing


def _from_16_bits(image: Image.Image, content: bytes) -> Image.Image:
    """Return grey samples of 9 to 16 bits in 8, with alpha where there is a transparent value."""
    values = np.asarray(image).astype(np.uint32)
    tags: Any = getattr(image, "tag_v2", {})
    depth, limit = max(tags.get(BITS_PER_SAMPLE, (16,))), tags.get(MAX_SAMPLE)
    # The largest sample of a picture says nothing of its range, unless it is all ones.
    depth = next((n for n in range(9, 16) if limit in (2**n - 1, (2**n - 1,))), depth)
    if image.format == "PNG" and (at := content.find(b"sBIT", 0, content.find(b"IDAT"))) > 0:
        # By the standard these are the upper bits: then the lower ones of a dark picture are zeros.
        bits = min(content[at + 4], 16)
        depth = bits if bits > 8 and np.any(values & (2 ** (16 - bits) - 1)) else 16
    white = 2**depth - 1 if values.max() < 2**depth else 65535
    shown = white - values if tags.get(PHOTOMETRIC) == 0 else values  # 0: the least is white
    grey = ((shown * 255 + white // 2) // white).astype(np.uint8)
    if (transparent := image.info.get("transparency")) is not None:
        opaque = np.where(values == transparent, 0, 255).astype(np.uint8)
        return Image.fromarray(np.stack([grey, opaque], 2), "LA")
    return Image.fromarray(grey)


def _without_metadata(content: bytes) -> bytes:
    """Return a PNG without what says nothing of its pixels or orientation, or has a wrong checksum."""
    at, kept = 8, [content[:8]]
    while content.startswith(b"\x89PNG") and at < len(content):
        stop = at + 12 + int.from_bytes(content[at : at + 4])
        kind, checksum = content[at + 4 : at + 8], int.from_bytes(content[stop - 4 : stop])
        is_whole = kind == b"eXIf" and zlib.crc32(content[at + 4 : stop - 4]) == checksum
        if is_whole or kind not in PNG_METADATA:
            kept.append(content[at:stop])
        at = stop
    return b"".join([*kept, content[at:]])
