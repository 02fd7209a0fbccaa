"""Options of the verb `sample` that explore the latent space: their checks, their calls, their output."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import PurePath
from typing import TYPE_CHECKING

import typer

from gan_dist.cli.paths import absolute, shorten
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
_SINGLE = ("--outdir", "--single", "--interpolate")
NOT_WITH = {
    "--walk": ("--directions", "--like", "--out", *_SINGLE),
    "--directions": ("--like", *_SINGLE),
    "--like": ("--n", "--seeds", "--latents", "--truncation", *_SINGLE),
    "--latents": ("--n", "--seeds", "--class", "--truncation", "--mix", *_SINGLE),
}
"""What does not go with an option: it writes something else, or is of other images."""


@dataclass(frozen=True)
class Exploration:
    """What the options ask for; all absent for a grid, rows or single files."""

    walk: str | None = None
    """The animation's path or URI."""
    frames: int | None = None
    fps: int | None = None
    directions: int | None = None
    reach: float | None = None
    like: str | None = None
    """The picture's path or URI."""
    steps: int | None = None
    latents: Sequence[str] = ()
    """Files of latents, in place of seeds."""

    @property
    def images(self) -> int | None:
        """How many images it is of where neither --n nor --seeds says so; None if it is of no kind."""
        return WALKED if self.walk is not None else 1 if self.name is not None else None

    @property
    def name(self) -> str | None:
        """Path or URI of what it writes where --out does not say so; None if it is of no kind."""
        return self.walk or ("directions.png" if self.directions else "like.png" if self.like else None)

    def check(self, others: Mapping[str, object], images: int) -> None:
        """Refuse what contradicts itself or another option, without a look at any file.

        Args:
            others: Values of the other options in NOT_WITH, by their names.
            images: How many images it is of.
        """
        _require_part("--frames", self.frames, "--walk", self.walk)
        _require_part("--fps", self.fps, "--walk", self.walk)
        _require_part("--reach", self.reach, "--directions", self.directions)
        _require_part("--steps", self.steps, "--like", self.like)
        ways = {"--walk": self.walk, "--directions": self.directions}
        values = {**others, **ways, "--like": self.like, "--latents": self.latents}
        for way, excluded in NOT_WITH.items():
            for other in excluded:
                if values[way] and values[other]:
                    raise GanDistError(f"{way} and {other} do not go together", f"leave {way} or {other} out")
        if self.walk is not None:
            animation.require_encoder(self.walk, self.fps or FPS)
            if images < 2:
                remedy = "name two or more with --n, --seeds or --latents"
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
        from gan_dist.artifacts.points import within_member
        from gan_dist.core.images import image_grid, write_png
        from gan_dist.models.release import to_safetensors

        release, points = within_member(release, points)
        found = directions(release, self.directions or 1)
        rows = along(release, points, found, self.reach or REACH)
        tensors = {"directions": found.vectors}
        tensors |= {"singular_values": found.singular_values, "deviations": found.deviations}
        storage.write_bytes(beside(target, ".safetensors"), to_safetensors(tensors))
        write_png(target, image_grid(rows.flatten(0, 2), columns=rows.shape[2]))
        return f"{len(found.vectors)} directions around"

    def invert(self, release: Release, target: str, seed: int, label: int | None) -> dict[str, object]:
        """Write the image nearest to a picture beside it, and its latent; return what was found."""
        import torch

        from gan_dist.artifacts import inversion, points
        from gan_dist.core.console import CountProgress
        from gan_dist.core.images import image_grid, write_png

        picture, reduced = inversion.read_picture(absolute(self.like or ""), release)
        if reduced:
            kind = {1: "grey", 3: "without transparency"}[release.shape.channels]
            typer.echo(f"note: the generator's images are {kind}, so {self.like} was made so", err=True)
        steps = self.steps or inversion.STEPS
        release.generator.to("cuda" if torch.cuda.is_available() else "cpu")
        with CountProgress(steps, "steps") as progress:
            found = inversion.invert(
                release, picture, label=label, seed=seed, steps=steps, progress=progress.update
            )
        release.generator.to("cpu")
        image, latents = points.image_of(release, found), beside(target, ".safetensors")
        storage.write_bytes(latents, points.to_file(found))
        write_png(target, image_grid(torch.stack([picture, image]), columns=2))
        psnr = inversion.psnr(image, picture)
        number = None if found.classes is None else int(found.classes)
        return {
            "psnr_db": psnr if math.isfinite(psnr) else None,
            "class": number,
            "latents": shorten(latents),
        }


def beside(uri: str, suffix: str) -> str:
    """Return the path or URI of a file beside another one, of the same name but for its suffix."""
    base, mark, query = split_query(uri)
    return base.removesuffix(PurePath(base).suffix) + suffix + mark + query


def _require_part(option: str, value: object, way: str, chosen: object) -> None:
    """Raise a GanDistError if an option has a value and what it is a part of is not asked for."""
    if value is not None and chosen is None:
        raise GanDistError(f"{option} {value} is a part of {way}", f"add {way}, or leave {option} out")
