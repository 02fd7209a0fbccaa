"""Options of the verb `sample` that explore the latent space: their checks, their calls, their output."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

from gan_dist.core import animation, storage
from gan_dist.core.errors import GanDistError
from gan_dist.core.storage.redaction import split_query

if TYPE_CHECKING:
    from PIL import Image

    from gan_dist.artifacts.points import Points
    from gan_dist.models.generator import Release

FRAMES, FPS = 30, 30
WALKED = 8
"""Images of a walk where neither --n nor --seeds says how many."""
REACH = 3.0


@dataclass(frozen=True)
class Exploration:
    """What the options ask for; all absent for a grid, rows or single files."""

    walk: str | None = None
    """The animation's path or URI."""
    frames: int | None = None
    fps: int | None = None
    directions: int | None = None
    reach: float | None = None

    @property
    def images(self) -> int | None:
        """How many images it is of where neither --n nor --seeds says so; None if it is of no kind."""
        return WALKED if self.walk is not None else 1 if self.directions is not None else None

    @property
    def name(self) -> str | None:
        """Path or URI of what it writes where --out does not say so; None if it is of no kind."""
        return self.walk or ("directions.png" if self.directions else None)

    def check(self, others: Mapping[str, object], images: int) -> None:
        """Refuse what contradicts itself or another option, without a look at any file.

        Args:
            others: Values of the options that ask for something else, by their names.
            images: How many images it is of.
        """
        _require_part("--frames", self.frames, "--walk", self.walk)
        _require_part("--fps", self.fps, "--walk", self.walk)
        _require_part("--reach", self.reach, "--directions", self.directions)
        ways = {"--walk": self.walk, "--directions": self.directions}
        given = [option for option, value in ways.items() if value is not None]
        if not given:
            return
        if self.walk is None:
            others = {option: value for option, value in others.items() if option != "--out"}
        given += [option for option, value in others.items() if value]
        if len(given) > 1:
            what = f"{given[0]} {ways[given[0]]} and {given[1]} say two different things to write"
            raise GanDistError(what, f"leave {given[0]} or {given[1]} out")
        if self.walk is not None:
            animation.require_encoder(self.walk, self.fps or FPS)
            if images < 2:
                remedy = "name two or more with --n or --seeds"
                raise GanDistError("--walk through one image leads nowhere", remedy)
        if self.reach is not None and not (math.isfinite(self.reach) and self.reach > 0):
            raise GanDistError(f"--reach {self.reach} is no length", "set a number above 0, such as 3")

    def write(self, release: Release, points: Points, target: str) -> str:
        """Write what is asked for of these points, and return what it is, up to `images`."""
        if self.walk is not None:
            return self._write_walk(release, points, target)
        return self._write_directions(release, points, target)

    def _write_walk(self, release: Release, points: Points, target: str) -> str:
        from gan_dist.artifacts.walks import walk
        from gan_dist.core.console import CountProgress
        from gan_dist.core.images import lay_on_white, to_picture

        frames, (channels, height, width) = self.frames or FRAMES, points.images.shape[1:]
        total = frames * len(points)
        animation.require_room(target, total, (width, height), channels)
        transparent = animation.file_type(target) == ".webp"

        with CountProgress(total, "frames") as progress:

            def pictures() -> Iterator[Image.Image]:
                progress.update(0)
                for done, image in enumerate(walk(release, points, frames), start=1):
                    yield to_picture(image if transparent else lay_on_white(image[None])[0])
                    progress.update(done)

            animation.write_animation(target, pictures(), self.fps or FPS)
        return f"{total} frames through"

    def _write_directions(self, release: Release, points: Points, target: str) -> str:
        from gan_dist.artifacts.directions import along, directions
        from gan_dist.core.images import image_grid, write_png
        from gan_dist.models.release import to_safetensors

        found = directions(release, self.directions or 1)
        rows = along(release, points, found, self.reach or REACH)
        tensors = {"directions": found.vectors}
        tensors |= {"singular_values": found.singular_values, "deviations": found.deviations}
        storage.write_bytes(beside(target, ".safetensors"), to_safetensors(tensors))
        write_png(target, image_grid(rows.flatten(0, 2), columns=rows.shape[2]))
        return f"{len(found.vectors)} directions around"


def beside(uri: str, suffix: str) -> str:
    """Return the path or URI of a file beside another one, of the same name but for its suffix."""
    base, mark, query = split_query(uri)
    return base.removesuffix(PurePath(base).suffix) + suffix + mark + query


def _require_part(option: str, value: object, way: str, chosen: object) -> None:
    """Raise a GanDistError if an option has a value and what it is a part of is not asked for."""
    if value is not None and chosen is None:
        raise GanDistError(f"{option} {value} is a part of {way}", f"add {way}, or leave {option} out")
