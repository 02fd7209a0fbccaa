"""Sizes of images and of networks."""

from __future__ import annotations

import math
from dataclasses import dataclass

from gan_dist.core.image_size import ImageSize

BASES = range(4, 8)
"""Longer edges of the feature maps at which generators start and discriminators end."""
BASE = BASES[0]
"""Both edges of these maps for images whose edge is a power of two."""
LARGEST = 2**31
"""More channels, or numbers of a latent, than any machine holds; torch counts in 64 bits."""
MIN_RESOLUTION = 8
"""The longer edge with a single stage above the base."""


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """Size of a network: of its images and of its layers."""

    resolution: int
    """R, the edge of square images in pixels; the longer edge of others."""
    channels: int
    """C, the channels of the images."""
    width: int
    """Channels of the feature maps at the highest resolution, doubled at every halving of the resolution."""
    max_width: int | None = None
    """Upper limit of these channels."""
    classes: int = 0
    """Classes of a conditional network; 0 for an unconditional one."""
    oblong: ImageSize | None = None
    """Height and width of images that are not square."""

    @property
    def image(self) -> ImageSize:
        """H and W, height and width of the images in pixels."""
        return self.oblong or ImageSize(self.resolution, self.resolution)

    @property
    def base(self) -> ImageSize:
        """Height and width of the feature maps at which a generator starts: `base_of`.

        Raises:
            ValueError: doubling makes no such images.
        """
        base = base_of(self.image)
        if base is None:
            raise ValueError(f"maps of {BASES[0]} to {BASES[-1]} pixels do not double to {self.image}")
        return base

    @property
    def halvings(self) -> int:
        """Number of halvings from the images to the base."""
        return _doublings(self.image)

    @property
    def square(self) -> int:
        """Edge of the square images that halve as often to 4x4."""
        return BASE << self.halvings

    def widths(self, stages: int) -> tuple[int, ...]:
        """Return the channels of `stages` stages, from the highest resolution down."""
        doubled = (self.width << stage for stage in range(stages))
        return tuple(wide if self.max_width is None else min(wide, self.max_width) for wide in doubled)


def base_of(size: ImageSize) -> ImageSize | None:
    """Return the feature maps that double to images of a size, both edges equally often, and at least once.

    The longer edge of these maps is in BASES: 4x4 for 64x64, 4x3 for 512x384, 7x4 for 224x128. None if there
    are no such maps.
    """
    doublings = _doublings(size)
    if doublings < 1 or any(edge % 2**doublings for edge in size):
        return None
    return ImageSize(*(edge >> doublings for edge in size))


def _doublings(size: ImageSize) -> int:
    """Return how often an edge in BASES doubles to the longer edge of a size, without its remainder."""
    return max(max(size).bit_length() - BASE.bit_length(), 0)


def possible_sizes(size: ImageSize) -> tuple[ImageSize, ...]:
    """Return the sizes of networks near a size: itself if there is a base; otherwise the nearest.

    For a square these are the next smaller and larger squares; otherwise the size with the smallest ratios of
    the edges, and of those with the nearest ratio of width to height the nearest.
    """
    if base_of(size):
        return (size,)
    if size.height == size.width:
        if size.height < MIN_RESOLUTION:
            return (ImageSize(MIN_RESOLUTION, MIN_RESOLUTION),)
        step = 2 ** _doublings(size)
        below = size.height // step * step
        return ImageSize(below, below), ImageSize(below + step, below + step)

    def distance(other: ImageSize) -> float:
        return sum(abs(math.log(there / here)) for here, there in zip(size, other, strict=True))

    def distortion(other: ImageSize) -> float:
        return abs(math.log(other.width * size.height / (other.height * size.width)))

    candidates = _candidates(size)
    nearest = min(candidates, key=lambda other: (distance(other), other.area))
    alike = min(candidates, key=lambda other: (round(distortion(other), 9), distance(other), other.area))
    return (nearest,) if alike == nearest else (nearest, alike)


def _candidates(size: ImageSize) -> list[ImageSize]:
    """Return the sizes of networks of the same orientation, from half to some more than twice a size."""
    middle = _doublings(size)
    found = []
    for doublings in range(max(middle - 1, 1), middle + 2):
        for longer in BASES:
            for shorter in range(1, longer + 1):
                edges = longer << doublings, shorter << doublings
                found.append(ImageSize(*(edges if size.height > size.width else edges[::-1])))
    return found
