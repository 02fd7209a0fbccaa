"""Sizes of images and of networks."""

from __future__ import annotations

from dataclasses import dataclass

BASE = 4
"""Edge of the feature maps at which generators start and discriminators end."""
LARGEST = 2**31
"""More channels, or numbers of a latent, than any machine holds; torch counts in 64 bits."""
MIN_RESOLUTION = 8
"""The resolution with a single stage above the base."""


@dataclass(frozen=True, kw_only=True)
class NetworkSize:
    """Size of a network: of its images and of its layers."""

    resolution: int
    """R, the edge of the images in pixels: a power of two of at least 8."""
    channels: int
    """C, the channels of the images."""
    width: int
    """Channels of the feature maps at the highest resolution, doubled at every halving of the resolution."""
    max_width: int | None = None
    """Upper limit of these channels."""
    classes: int = 0
    """Classes of a conditional network; 0 for an unconditional one."""

    @property
    def halvings(self) -> int:
        """Number of halvings from R to 4."""
        return (self.resolution // BASE).bit_length() - 1

    def widths(self, stages: int) -> tuple[int, ...]:
        """Return the channels of `stages` stages, from the highest resolution down."""
        doubled = (self.width << stage for stage in range(stages))
        return tuple(wide if self.max_width is None else min(wide, self.max_width) for wide in doubled)


def possible_resolutions(resolution: int) -> tuple[int, ...]:
    """Return the resolutions of networks near `resolution`: itself, or the nearest below and above."""
    if resolution <= MIN_RESOLUTION:
        return (MIN_RESOLUTION,)
    below = 1 << (resolution.bit_length() - 1)
    return (resolution,) if below == resolution else (below, 2 * below)
