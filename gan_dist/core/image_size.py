"""Sizes of images as people write them, and how images of one size become images of another."""

from __future__ import annotations

from typing import Annotated, Literal, NamedTuple

from pydantic import AfterValidator, Field

LARGEST_EDGE = 2**31
"""More pixels along an edge than any machine holds."""


class ImageSize(NamedTuple):
    """Height and width of images in pixels; as text `WIDTHxHEIGHT`, the order in which people write them."""

    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.width}x{self.height}"

    @classmethod
    def of(cls, resolution: int | str) -> ImageSize:
        """Return the size that is written as the edge of a square, or as `WIDTHxHEIGHT`."""
        if isinstance(resolution, int):
            return cls(resolution, resolution)
        width, height = resolution.split("x")
        return cls(int(height), int(width))

    @property
    def resolution(self) -> int | str:
        """The size as it is written in configurations and records: the edge of a square, or text."""
        return self.height if self.height == self.width else str(self)

    @property
    def area(self) -> int:
        """Number of pixels."""
        return self.height * self.width


def _shortest(text: str) -> int | str:
    """Return a size as it is written shortest: 64 for `64x64`. Raises ValueError if it is too large."""
    size = ImageSize.of(text)
    if max(size) > LARGEST_EDGE:
        raise ValueError(f"{text} is larger than any image")
    return size.resolution


WrittenSize = Annotated[
    str,
    Field(
        pattern=r"^[1-9][0-9]{0,9}x[1-9][0-9]{0,9}$",
        examples=["512x384"],
        json_schema_extra={"format": "WIDTHxHEIGHT"},
    ),
    AfterValidator(_shortest),
]
"""`WIDTHxHEIGHT` in a model of pydantic's; squares become the number of their edge."""

PAD = "pad:"
FITS = ("crop", "pad", "stretch")
COLOURS = {"black": (0, 0, 0), "white": (255, 255, 255)}
FIT_PATTERN = r"^pad:(black|white|[0-9a-fA-F]{6})$"
Fit = (
    Literal["crop", "pad", "stretch"]
    | Annotated[
        str, Field(pattern=FIT_PATTERN, examples=["pad:white"], json_schema_extra={"format": "pad:COLOUR"})
    ]
)
"""How images get another aspect: `crop` cuts out the largest centred part of that aspect, `pad` adds borders,
black or (where there is alpha) transparent, `pad:white` or `pad:ff8000` of that colour, and `stretch` changes
the aspect of what they show."""


def crop_box(size: ImageSize, target: ImageSize) -> tuple[int, int, int, int]:
    """Return the largest centred part of an image that has a target's aspect: left, top, right, bottom."""
    height, width = size
    if width * target.height > height * target.width:
        width = max(1, _rounded(height * target.width, target.height))
    else:
        height = max(1, _rounded(width * target.height, target.width))
    left, top = (size.width - width) // 2, (size.height - height) // 2
    return left, top, left + width, top + height


def inner_size(size: ImageSize, target: ImageSize) -> ImageSize:
    """Return the largest size of an image's aspect that a target has room for."""
    if size.width * target.height > size.height * target.width:
        return ImageSize(max(1, _rounded(size.height * target.width, size.width)), target.width)
    return ImageSize(target.height, max(1, _rounded(size.width * target.height, size.height)))


def _rounded(numerator: int, denominator: int) -> int:
    return (2 * numerator + denominator) // (2 * denominator)


def border(fit: str, channels: int) -> tuple[int, ...]:
    """Return the pixel of the borders that `pad` adds, a number from 0 to 255 for each channel.

    Grey is ITU-R 601 luma.
    """
    colour = fit.removeprefix(PAD)
    if channels == 4 and colour == fit:
        return (255, 255, 255, 0)
    red, green, blue = COLOURS.get(colour) or (bytes.fromhex(colour) if colour != fit else (0, 0, 0))
    if channels in (3, 4):
        return (red, green, blue, 255)[:channels]
    return (_rounded(299 * red + 587 * green + 114 * blue, 1000),) * channels
