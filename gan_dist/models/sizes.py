"""Which resolutions networks can have, and their widths."""

from __future__ import annotations

BASE = 4
"""Edge of the feature maps at which generators start and discriminators end."""
MIN_RESOLUTION = 8
"""Below this there would be no stage at all."""


def possible_resolutions(resolution: int) -> tuple[int, ...]:
    """The resolutions near `resolution` that a network can have: itself, or the nearest below and above."""
    if resolution <= MIN_RESOLUTION:
        return (MIN_RESOLUTION,)
    below = 1 << (resolution.bit_length() - 1)
    return (resolution,) if below == resolution else (below, 2 * below)


def halvings(resolution: int) -> int:
    """How often `resolution` is halved to become 4.

    Raises ValueError unless it is a power of two of at least 8.
    """
    if possible_resolutions(resolution) != (resolution,):
        raise ValueError(f"{resolution} is not a power of two of at least {MIN_RESOLUTION}")
    return (resolution // BASE).bit_length() - 1


def widths(width: int, max_width: int | None, stages: int) -> tuple[int, ...]:
    """Channels of `stages` stages, each of half the resolution: width, 2 width, ... up to max_width."""
    doubled = (width << stage for stage in range(stages))
    return tuple(wide if max_width is None else min(wide, max_width) for wide in doubled)
