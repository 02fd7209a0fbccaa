"""The verb `export`: parse, call, print."""

from __future__ import annotations

import json
import textwrap
from typing import TYPE_CHECKING, Annotated

import typer

from gan_dist.cli.options import AsJson, Backend, ReleaseSource, Trust
from gan_dist.cli.paths import absolute, shorten

if TYPE_CHECKING:
    from gan_dist.artifacts.export import Exported


def export(
    source: ReleaseSource,
    to: Annotated[
        str, typer.Option(help="The file: .pt2 is written by torch.export, .onnx by torch.onnx.export.")
    ],
    trust: Trust = None,
    backend: Backend = "pyarrow",  # noqa: ARG001  # set by its callback
    as_json: AsJson = False,
) -> None:
    """Write a generator as one file that runs without gan-dist. Their images are compared first."""
    check(to)
    from gan_dist.artifacts import export as room

    exported = room.export(absolute(source), absolute(to), trust=trust or ())
    written = shorten(absolute(to))
    _print(exported, source, written)
    typer.echo("run it with")
    typer.echo(textwrap.indent(room.usage(exported.release, written), "  "))
    if as_json:
        result = {"out": written, "max_abs_diff": exported.max_abs_diff, "bytes": exported.bytes}
        typer.echo(json.dumps(result))


def check(to: str) -> None:
    """Refuse a file whose suffix is that of another format."""
    from gan_dist.artifacts.export import file_type  # brings torch

    file_type(to)


def _print(exported: Exported, source: str, written: str) -> None:
    shape, latent_dim = exported.release.shape, exported.release.latent_dim
    parameters = sum(weights.numel() for weights in exported.release.generator.parameters())
    size = f"{exported.bytes / 1024**2:.1f} MiB"
    typer.echo(f"the generator of {source} is in {written}: {parameters:,} parameters, {size}")
    typer.echo(f"  latents  float32 (n, {latent_dim}), drawn from N(0, 1)")
    if shape.classes:
        typer.echo(f"  labels   int64 (n,), 0 to {shape.classes - 1}")
    limits = "in [-1, 1]" if exported.release.bounded else "to be clamped to [-1, 1]"
    form = f"(n, {shape.channels}, {shape.size.height}, {shape.size.width})"
    typer.echo(f"  images   float32 {form} {limits}, within {exported.max_abs_diff:.2g} of gan-dist's")
