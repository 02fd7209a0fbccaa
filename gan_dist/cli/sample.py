"""The verb `sample`: parse, call, print."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gan_dist.cli import styles
from gan_dist.cli.exploration import Exploration
from gan_dist.cli.options import AsJson, Backend, ReleaseSource, Trust
from gan_dist.cli.paths import absolute, require_png, shorten
from gan_dist.core.errors import GanDistError
from gan_dist.core.interrupts import INTERRUPTED

if TYPE_CHECKING:
    from gan_dist.models.generator import Release

IMAGES = 64
"""Images where neither --n nor --seeds says how many."""
MOST_SEEDS = 100_000


def sample(
    source: ReleaseSource,
    out: Annotated[
        str | None,
        typer.Option(
            help="The PNG to write, or with --single the folder; grid.png, interpolation.png or images "
            "when absent."
        ),
    ] = None,
    outdir: Annotated[
        str | None, typer.Option(metavar="DIR", help="A folder for single images: --single --out DIR.")
    ] = None,
    n: Annotated[
        int | None, typer.Option("--n", "-n", min=1, help="Number of images; 64 when absent.")
    ] = None,
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
        str | None,
        typer.Option("--label", "--class", help="Class of all images, by name or number; if conditional."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the latents.")] = 0,
    seeds: Annotated[
        str | None,
        typer.Option(metavar="LIST", help="An image of each of these seeds, e.g. 0-35,42: its image 0."),
    ] = None,
    truncation: Annotated[
        float,
        typer.Option(
            metavar="PSI",
            help="Styles w nearer to their mean: 1 as they are, 0 the mean; of a generator with styles.",
        ),
    ] = 1.0,
    mix: Annotated[
        str | None,
        typer.Option(
            metavar="LIST",
            help="Instead of a grid, a table: columns take coarse styles of --seeds, rows fine ones of LIST.",
        ),
    ] = None,
    mix_from: Annotated[
        int | None,
        typer.Option(min=1, metavar="STYLE", help="--mix: the first fine style; half of all when absent."),
    ] = None,
    walk: Annotated[
        str | None,
        typer.Option(
            metavar="FILE",
            help="Instead of a grid, an animation from image to image that loops: .webp, .gif or .mp4.",
        ),
    ] = None,
    frames: Annotated[
        int | None, typer.Option(min=1, help="--walk: frames from one image to the next; 30 when absent.")
    ] = None,
    fps: Annotated[
        int | None, typer.Option(min=1, max=240, help="--walk: frames a second; 30 when absent.")
    ] = None,
    directions: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="K",
            help="Instead of a grid, a row for each of K directions along which images change most.",
        ),
    ] = None,
    reach: Annotated[
        float | None,
        typer.Option(metavar="A", help="--directions: rows go from -A to A around an image; 3 when absent."),
    ] = None,
    like: Annotated[
        str | None,
        typer.Option(
            metavar="PHOTO",
            help="Instead of a grid, the image nearest to a picture beside it, and its latent as a file.",
        ),
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="--like: steps of the optimisation; 300 when absent.")
    ] = None,
    latents: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="In place of seeds, the latent that --like has written; may be given several times.",
        ),
    ] = None,
    trust: Trust = None,
    backend: Backend = "pyarrow",  # noqa: ARG001  # set by its callback
    as_json: AsJson = False,
) -> None:
    """Write a generator's images: grids, files, walks, inversions."""
    check(out, outdir, n, interpolate, seeds, single=single)
    chosen = None if seeds is None else parse_seeds(seeds)
    explored = Exploration(walk, frames, fps, directions, reach, like, steps, latents or ())
    ways = {"--single": single or outdir, "--walk": walk, "--directions": directions, "--like": like}
    styles.check_mixing(seeds, mix, mix_from, ways)
    rows_of_seeds = None if mix is None else parse_seeds(mix, "--mix")
    others = {"--out": out, "--outdir": outdir, "--single": single, "--interpolate": interpolate}
    others |= {"--n": n, "--seeds": seeds, "--mix": mix, "--class": label, "--truncation": truncation != 1}
    n = len(chosen or explored.latents) or n or explored.images or IMAGES
    explored.check(others, n)
    single = single or outdir is not None
    target = _target(outdir or out or explored.name, interpolate, single=single)
    from gan_dist.artifacts import points, sampling
    from gan_dist.core import storage
    from gan_dist.core.images import image_grid, write_png
    from gan_dist.models import release

    if not single:
        storage.require_writable(target)
    generator = release.load(absolute(source), trust=trust or ()).truncated(truncation)
    number, sentence = None if label is None else generator.shape.class_number(label), ""
    if single:
        _write_single(generator, target, n, seed, number, chosen)
    elif like is not None:
        found = explored.invert(generator, target, seed, number)
        _print_found(found, like, shorten(target), as_json=as_json)
        return
    elif rows_of_seeds and chosen:
        write_png(target, styles.mixed(generator, chosen, rows_of_seeds, mix_from, number))
        n *= len(rows_of_seeds)
    elif interpolate:
        rows = n // interpolate
        labels = None if number is None else [number] * rows
        images = sampling.interpolate(generator, rows, interpolate, seed, labels)
        write_png(target, image_grid(images.flatten(0, 1), columns=interpolate))
    else:
        if latents:
            shown = points.of_files(generator, [absolute(file) for file in latents])
        elif chosen is None:
            shown = points.of_numbers(generator, n, seed, number)
        else:
            shown = points.of_seeds(generator, chosen, number)
        if explored.name is None:
            write_png(target, image_grid(shown.images))
        else:
            sentence = f"{explored.write(generator, shown, target)} "
    written = shorten(target)
    sentence += f"{n} images of {source} are in {written}"
    typer.echo(json.dumps({"out": written}) if as_json else sentence)


def _print_found(found: dict[str, object], like: str, written: str, *, as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps({"out": written, **found}))
        return
    psnr, number = found["psnr_db"], found["class"]
    near = "the same pixels" if psnr is None else f"{psnr:.1f} dB (PSNR)"
    of_class = "" if number is None else f", class {number}"
    typer.echo(
        f"the image nearest to {like} is in {written}: {near}{of_class}; its latent in {found['latents']}"
    )


def parse_seeds(text: str, option: str = "--seeds") -> list[int]:
    """Return the seeds of a list such as `0-35,42`, in its order.

    Raises:
        GanDistError: it is no such list, a range runs backwards, or there are more than MOST_SEEDS.
    """
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*([0-9]{1,10})\s*(?:-\s*([0-9]{1,10})\s*)?", part)
        first, last = (int(match[1]), int(match[2] or match[1])) if match else (1, 0)
        if not first <= last < 2**32:
            what = f"{option} {text[:80]}: {part[:40]!r} is no seed and no range of seeds below 2^32"
            raise GanDistError(what, "write numbers and ranges, as in 0-35,42")
        if len(seeds) + last - first >= MOST_SEEDS:
            raise GanDistError(
                f"{option} {text[:80]} names more than {MOST_SEEDS:,}", "use --n, for images of one --seed"
            )
        seeds += range(first, last + 1)
    return seeds


def check(
    out: str | None,
    outdir: str | None,
    n: int | None,
    interpolate: int | None,
    seeds: str | None,
    *,
    single: bool,
) -> None:
    """Refuse arguments that contradict one another, without a look at any file."""
    if outdir is not None:
        if out is not None:
            raise GanDistError("--outdir and --out both say where the images go", "leave one of them out")
        out, single = outdir, True
    if seeds is not None:
        parse_seeds(seeds)
        if n is not None or interpolate is not None:
            other = "--n" if n is not None else "--interpolate"
            raise GanDistError(
                f"--seeds makes one image a seed, {other} several of one", f"leave {other} or --seeds out"
            )
    if single and interpolate:
        what = f"--single writes a file an image, --interpolate {interpolate} one picture"
        raise GanDistError(what, "leave one of them out")
    if single and out is not None and out.lower().endswith(".png"):
        raise GanDistError(f"--out {out}: --single writes into a folder", "name one, or leave --single out")
    n = n or IMAGES
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


def _write_single(
    generator: Release, folder: str, n: int, seed: int, label: int | None, seeds: list[int] | None
) -> None:
    from gan_dist.artifacts import sampling
    from gan_dist.core.console import CountProgress

    with CountProgress(n, "images") as progress:
        try:
            if seeds is None:
                sampling.write_images(generator, folder, n, seed, label, progress.update)
            else:
                sampling.write_images_of_seeds(generator, folder, seeds, label, progress.update)
        except KeyboardInterrupt:
            typer.echo("stopped; the same command again continues", err=True)
            raise typer.Exit(INTERRUPTED) from None
