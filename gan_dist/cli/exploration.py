"""Options of the verb `sample` that explore the latent space: their checks, their calls, their output."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

from gan_dist.core import animation
from gan_dist.core.errors import GanDistError

if TYPE_CHECKING:
    from PIL import Image

    from gan_dist.artifacts.points import Points
    from gan_dist.models.generator import Release

FRAMES, FPS = 30, 30
WALKED = 8
"""Images of a walk where neither --n nor --seeds says how many."""


def check_walk(
    walk: str | None, frames: int | None, fps: int | None, images: int, others: Mapping[str, object]
) -> None:
    """Refuse a walk that cannot be made, and options of a walk without one, without a look at any file.

    Args:
        walk: The animation's path or URI; None for no walk.
        frames: From one image to the next.
        fps: Frames a second.
        images: How many the walk goes through.
        others: Values of the options that do not go with a walk.
    """
    for option, value in (("--frames", frames), ("--fps", fps)):
        if value is not None and walk is None:
            raise GanDistError(
                f"{option} {value} is for a walk", f"add --walk walk.webp, or leave {option} out"
            )
    if walk is not None:
        animation.require_encoder(walk, fps or FPS)
        if given := [option for option, value in others.items() if value]:
            what = f"--walk {walk} names one animation, which {given[0]} does not go with"
            raise GanDistError(what, f"leave {given[0]} or --walk out")
        if images < 2:
            raise GanDistError(
                "--walk through one image leads nowhere", "name two or more with --n or --seeds"
            )


def write_walk(release: Release, points: Points, target: str, frames: int | None, fps: int | None) -> int:
    """Write a walk through points as an animation, and return the number of its frames."""
    from gan_dist.artifacts.walks import walk
    from gan_dist.core.console import CountProgress
    from gan_dist.core.images import to_picture

    frames, (channels, *size) = frames or FRAMES, points.images.shape[1:]
    total = frames * len(points)
    animation.require_room(target, total, (size[0], size[1]), channels)

    with CountProgress(total, "frames") as progress:

        def pictures() -> Iterator[Image.Image]:
            progress.update(0)
            for done, image in enumerate(walk(release, points, frames), start=1):
                yield to_picture(image)
                progress.update(done)

        animation.write_animation(target, pictures(), fps or FPS)
    return total
