"""The verb `bench`: parse, call, print."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from gan_dist.cli.options import AsJson
from gan_dist.errors import GanDistError


def bench(
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="stream, pack, step, modes, metrics or search.")
    ],
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: that it runs, not how fast.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what takes long: all losses of modes.")
    ] = False,
    real: Annotated[
        bool, typer.Option("--real", help="search: real runs on the digits, not simulated ones (20 minutes).")
    ] = False,
    out: Annotated[str | None, typer.Option(help="Folder in which to add a line to NAME.jsonl.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run one benchmark. It tells ratios to references that are measured in the same run."""
    check(name)
    from gan_dist.bench import record, run

    figures = run(name, quick=quick, everything=everything, real=real)
    for key, value in figures.items():
        typer.echo(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")
    if out is not None:
        typer.echo(f"recorded in {record.keep(out, figures)}")
    if as_json:
        typer.echo(json.dumps(figures))


def check(name: str) -> None:
    """Refuse what can be seen to be wrong by the arguments alone.

    Raises:
        GanDistError: there is no such benchmark.
    """
    from gan_dist.bench import NAMES

    if name not in NAMES:
        raise GanDistError(f"there is no benchmark {name}; there are {', '.join(NAMES)}")
