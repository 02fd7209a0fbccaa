"""Walks through a generator's latents: from each of some images to the next, and back to the first."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gan_dist.artifacts.points import Points, images_near, images_of_w, within_member
from gan_dist.artifacts.sampling import great_circle
from gan_dist.core.errors import DataError
from gan_dist.models.generator import BLOCK, Release


def walk(release: Release, points: Points, frames: int) -> Iterator[Tensor]:
    """Return an iterator over the frames of a walk that loops, uint8 (C, H, W), `frames` for each point.

    Frame i * `frames` is the image of point i, to the bit. Those after it follow the great circle to the next
    point, and after the last point that to the first, so that the frame after the last one would be the
    first. A conditional generator keeps the class of a point until the next one, and so does one with noise
    its noise, which would flicker otherwise. From one w to the next the way is straight. A walk of a mixture
    stays within one member (`within_member`).

    Raises:
        DataError: fewer than two points, or `frames` is below 1.
        NonFiniteError: a pixel is NaN or infinite.
    """
    if len(points) < 2:
        raise DataError(f"a walk through {len(points)} image leads nowhere", "name two or more")
    if frames < 1:
        raise DataError(f"{frames} frames from one image to the next: 1 or more are needed")
    release, points = within_member(release, points)
    return (image for number in range(len(points)) for image in _stretch(release, points, number, frames))


def _stretch(release: Release, points: Points, number: int, frames: int) -> Iterator[Tensor]:
    """Yield the frames from a point to the one before the next point."""
    yield points.images[number]
    start, end = points.latents[number], points.latents[(number + 1) % len(points)]
    if points.w is not None:
        to, t = points.w[(number + 1) % len(points)], torch.arange(1, frames)[:, None] / frames
        for w in torch.lerp(points.w[number], to, t).split(BLOCK) if frames > 1 else ():
            yield from images_of_w(release, w, start)
        return
    path = great_circle(start, end, frames + 1)[:-1]
    for first in range(1, frames, BLOCK):
        latents = path[first : first + BLOCK]
        yield from images_near(release, latents, points.class_of(number, len(latents)), noise_of=start)
