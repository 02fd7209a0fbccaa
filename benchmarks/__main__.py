"""Command line of the benchmarks: `python -m benchmarks NAME`."""

from __future__ import annotations

import importlib
import json
from collections.abc import Mapping
from typing import Annotated

import typer

from benchmarks import record
from gan_dist.core.errors import GanDistError

NAMES = (
    *("stream", "pack", "step", "modes", "metrics", "search", "checkpoint", "halves", "audit", "transfer"),
    *("networks", "inversion", "mixture", "serve", "forecasts", "fronts", "trackers", "presets"),
)


def run(
    name: str,
    *,
    quick: bool = False,
    everything: bool = False,
    real: bool = False,
    population: bool = False,
) -> dict[str, object]:
    """Run one benchmark and return its figures.

    Args:
        name: One of `NAMES`.
        quick: Take sizes that show that it runs, not how fast.
        everything: Also measure what takes long; `modes` has such a part.
        real: Measure real runs in place of simulated ones; `search` has both.
        population: Compare a population with ASHA on real runs; `search` has that.

    Raises:
        GanDistError: there is no such benchmark, or it has no such part.
    """
    if name not in NAMES:
        raise GanDistError(f"there is no benchmark {name}; there are {', '.join(NAMES)}")
    options = (("--all", everything, "modes"), ("--real", real, "search"))
    for option, wanted, of in (*options, ("--population", population, "search")):
        if wanted and name != of:
            raise GanDistError(f"{option} is a part of {of}, which {name} has not; leave it out")
    benchmark = importlib.import_module(f"benchmarks.{name}")
    parts = {"everything": everything, "real": real, "population": population}
    more = {part: True for part, wanted in parts.items() if wanted}
    figures: Mapping[str, object] = benchmark.run(quick=quick, **more)
    return {"name": name, **figures}


def bench(
    name: Annotated[str, typer.Argument(metavar="NAME", help=f"{', '.join(NAMES[:-1])} or {NAMES[-1]}.")],
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: that it runs, not how fast.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what takes long: all losses of modes.")
    ] = False,
    real: Annotated[
        bool, typer.Option("--real", help="search: real runs on the digits, not simulated ones (20 minutes).")
    ] = False,
    population: Annotated[
        bool, typer.Option("--population", help="search: a population and ASHA on the digits (10 minutes).")
    ] = False,
    out: Annotated[str | None, typer.Option(help="Folder in which to add a line to NAME.jsonl.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")] = False,
) -> None:
    """Run one benchmark: ratios to references that are measured in the same run."""
    try:
        figures = run(name, quick=quick, everything=everything, real=real, population=population)
    except GanDistError as error:
        typer.echo(f"benchmarks: {error}", err=True)
        raise typer.Exit(error.exit_code) from None
    for key, value in figures.items():
        typer.echo(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")
    if out is not None:
        typer.echo(f"recorded in {record.keep(out, figures)}")
    if as_json:
        typer.echo(json.dumps(figures))


if __name__ == "__main__":
    typer.run(bench)
