"""From the bytes of an image file to pixels of one size, or the reason why not.

Decided here, once, for every set:
  the content says what the format is, not the name; formats outside `FORMATS` are rejected;
  EXIF orientation is applied; colour profiles are ignored; CMYK and palettes become RGB;
  transparent parts are laid on white; 16-bit samples are scaled to 8, never clipped;
  pictures that move, or have several pages, are rejected: which frame to take is the owner's to say;
  the largest centred square is cut out and resized with an antialiasing filter, larger or smaller.
"""

from __future__ import annotations

import io
import warnings
from contextlib import suppress
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from gan_dist.data.packing.resize import resize

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "GIF", "TIFF", "PPM")
PIXEL_LIMIT = 89_478_485
"""A file of a few kilobytes can claim any size; Pillow's own limit, a quarter of a gigabyte as RGB."""
REASON_LENGTH = 200


class RejectedError(Exception):
    """An image that cannot be used; the message is the reason, as the quarantine lists it."""


@dataclass(frozen=True)
class Decoding:
    """What images are turned into."""

    resolution: int
    """Edge length in pixels."""
    channels: int = 3
    """3 (RGB) or 1 (grey, ITU-R 601 luma)."""
    filter: str = "lanczos"
    """A key of `resize.FILTERS`."""


class Decoded(NamedTuple):
    """Pixels, uint8 (R, R, C), and whether the picture was smaller than that."""

    pixels: npt.NDArray[np.uint8]
    enlarged: bool


def decode(content: bytes, decoding: Decoding) -> Decoded:
    """Return an image file's pixels.

    Raises:
        RejectedError: it is no whole, still picture of a known format; content raises nothing else.
    """
    picture = _picture(content, decoding.channels)
    # What fails from here on, such as a library that cannot be loaded, is no fault of the picture.
    edge = min(picture.size)
    left, top = (picture.width - edge) // 2, (picture.height - edge) // 2
    square = (left, top, left + edge, top + edge)
    pixels = resize(picture, square, decoding.resolution, decoding.filter)
    return Decoded(pixels, edge < decoding.resolution)


def _picture(content: bytes, channels: int) -> Image.Image:
    """Return an image file's picture, upright, in mode RGB or L."""
    if not content:
        raise RejectedError("empty file")
    try:
        with warnings.catch_warnings():
            # Pillow warns of damaged metadata, which does not touch the pixels.
            warnings.simplefilter("ignore")
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            return _loaded(content, channels)
    except RejectedError:
        raise
    except UnidentifiedImageError:
        raise RejectedError(f"no image of a supported format ({', '.join(FORMATS)})") from None
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise RejectedError(f"too large: more than {PIXEL_LIMIT} pixels") from None
    except Exception as error:
        # Decoders meet hostile or broken bytes with nearly every type of exception.
        reason = " ".join(f"damaged: {error or type(error).__name__}".split())
        raise RejectedError(reason[:REASON_LENGTH]) from None


def _loaded(content: bytes, channels: int) -> Image.Image:
    with Image.open(io.BytesIO(content), formats=FORMATS) as image:
        if image.width * image.height > PIXEL_LIMIT:
            raise RejectedError(f"too large: more than {PIXEL_LIMIT} pixels")
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
        return _opaque(image, channels)


def _opaque(image: Image.Image, channels: int) -> Image.Image:
    """Return a picture in mode RGB or L, of 8 bits, with transparent parts laid on white."""
    if image.mode.startswith("I;16"):
        image = _from_16_bits(np.asarray(image), image.info.get("transparency"))
    elif image.mode == "I" and image.format == "PPM":
        image = _from_16_bits(np.asarray(image), None)
    elif image.mode in ("I", "F"):
        kind = "floats" if image.mode == "F" else "32-bit integers"
        raise RejectedError(f"its pixels are {kind}, of which the range is not known")
    if image.has_transparency_data:
        over = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", over.size, "white"), over).convert("RGB")
    elif image.mode not in ("RGB", "L"):
        image = image.convert("L" if image.mode == "1" else "RGB")
    wanted = "RGB" if channels == 3 else "L"
    return image if image.mode == wanted else image.convert(wanted)  # which copies where it changes nothing


def _from_16_bits(values: npt.NDArray[np.integer], transparent: int | None) -> Image.Image:
    """Return grey samples of 16 bits in 8; those of the transparent value become white."""
    grey = ((values.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    if transparent is not None:
        grey[values == transparent] = 255
    return Image.fromarray(grey)
