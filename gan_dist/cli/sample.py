"""The verb `sample`: parse, call, print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gan_dist.cli.options import INTERRUPTED, AsJson, Backend
from gan_dist.cli.paths import absolute, require_png, shorten
from gan_dist.core.errors import DataError, GanDistError

if TYPE_CHECKING:
    from gan_dist.models.generator import Release


def sample(
    source: Annotated[
        str, typer.Argument(metavar="RELEASE", help="A release, a checkpoint, or a run's folder.")
    ],
    out: Annotated[
        str | None,
        typer.Option(
            help="The PNG to write, or with --single the folder; grid.png, interpolation.png or images "
            "when absent."
        ),
    ] = None,
    n: Annotated[int, typer.Option(min=1, help="Number of images.")] = 64,
    interpolate: Annotated[
        int | None,
        typer.Option(
            min=2,
            metavar="STEPS",
            help="Instead of a grid, rows of STEPS images: row i goes from image i to i + 1.",
        ),
    ] = None,
    single: Annotated[
        bool,
        typer.Option(
            "--single",
            help="Instead of a grid, a PNG for each image; the same command continues, a larger --n adds.",
        ),
    ] = False,
    label: Annotated[
        int | None, typer.Option(min=0, help="Class of all images; for a conditional generator.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the latents.")] = 0,
    backend: Backend = "pyarrow",  # noqa: ARG001  # set by its callback
    as_json: AsJson = False,
) -> None:
    """Write a generator's images: a grid, rows or single files."""
    check(out, n, interpolate, single=single)
    target = _target(out, interpolate, single=single)
    from gan_dist.artifacts import sampling
    from gan_dist.core import storage  # brings torch
    from gan_dist.core.images import image_grid, write_png
    from gan_dist.models import release

    if not single:
        storage.require_writable(target)
    generator = release.load(absolute(source))
    classes = generator.shape.classes
    if label is not None and label >= classes:
        has = f"has the classes 0 to {classes - 1}" if classes else "was trained without classes"
        remedy = "name one" if classes else "leave --label out"
        raise DataError(f"--label {label}: the generator {has}", remedy)
    if single:
        _write_single(generator, target, n, seed, label)
    elif interpolate:
        rows = n // interpolate
        images = sampling.interpolate(generator, rows, interpolate, seed, _labels(label, rows))
        write_png(target, image_grid(images.flatten(0, 1), columns=interpolate))
    else:
        images = generator.sample(n, seed, _labels(label, n))
        write_png(target, image_grid(images))
    written = shorten(target)
    typer.echo(json.dumps({"out": written}) if as_json else f"{n} images of {source} are in {written}")


def check(out: str | None, n: int, interpolate: int | None, *, single: bool) -> None:
    """Refuse arguments that contradict one another, without a look at any file."""
    if single and interpolate:
        what = f"--single writes a file an image, --interpolate {interpolate} one picture"
        raise GanDistError(what, "leave one of them out")
    if single and out is not None and out.lower().endswith(".png"):
        raise GanDistError(f"--out {out}: --single writes into a folder", "name one, or leave --single out")
    if interpolate and n % interpolate:
        fewer, more = n // interpolate * interpolate, -(-n // interpolate) * interpolate
        remedy = f"set --n {fewer} or {more}" if fewer else f"set --n {more}"
        raise GanDistError(f"--n {n} is not a whole number of rows of --interpolate {interpolate}", remedy)
    if out is not None and not single:
        if out.endswith("/"):
            raise _folder_error(out)
        require_png(out)


def _target(out: str | None, interpolate: int | None, *, single: bool) -> str:
    """Return the absolute path of the picture or, with --single, the folder."""
    if single:
        return absolute(out or "images")
    out = out or ("interpolation.png" if interpolate else "grid.png")
    if Path(absolute(out)).is_dir():
        raise _folder_error(out)
    return absolute(out)


def _folder_error(out: str) -> GanDistError:
    remedy = f"add --single for a file an image, or name a picture, as in {out.rstrip('/')}.png"
    return GanDistError(f"--out {out} is a folder", remedy)


def _labels(label: int | None, count: int) -> list[int] | None:
    return None if label is None else [label] * count


def _write_single(generator: Release, folder: str, n: int, seed: int, label: int | None) -> None:
    from gan_dist.artifacts import sampling
    from gan_dist.core.console import CountProgress

    with CountProgress(n, "images") as progress:
        try:
            sampling.write_images(generator, folder, n, seed, label, progress.update)
        except KeyboardInterrupt:
            typer.echo("stopped; the same command again continues", err=True)
            raise typer.Exit(INTERRUPTED) from None
