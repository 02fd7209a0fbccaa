"""The verb `sample`: parse, call, print."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from gan_dist.cli.options import AsJson, Backend
from gan_dist.cli.places import absolute, require_png, short


def sample(
    source: Annotated[str, typer.Argument(help="A release, a checkpoint, or a run's folder.")],
    out: Annotated[str, typer.Option(help="The PNG to write.")] = "grid.png",
    n: Annotated[int, typer.Option(min=1, help="Number of images.")] = 64,
    label: Annotated[
        int | None, typer.Option(min=0, help="Class of all images; for a conditional generator.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the latents.")] = 0,
    backend: Backend = "pyarrow",  # noqa: ARG001  # set by its callback
    as_json: AsJson = False,
) -> None:
    """Write a grid of a generator's images."""
    from gan_dist import release, telemetry

    require_png(out)
    images = release.load(absolute(source)).sample(n, seed, None if label is None else [label] * n)
    telemetry.write_png(absolute(out), telemetry.image_grid(images))
    written = short(absolute(out))
    typer.echo(json.dumps({"out": written}) if as_json else f"{n} images of {source} are in {written}")
