"""The verb `report`: parse, call, print."""

from __future__ import annotations

import json
from pathlib import PurePath
from typing import Annotated

import typer

from gan_dist.cli.options import AsJson, Backend
from gan_dist.cli.paths import absolute, shorten
from gan_dist.core.errors import GanDistError
from gan_dist.core.storage.redaction import split_query


def report(
    source: Annotated[
        str, typer.Argument(metavar="RUN_OR_SEARCH", help="The folder of a run or of a search.")
    ],
    out: Annotated[str, typer.Option(help="The HTML file to write.")] = "report.html",
    optuna_storage: Annotated[
        str | None, typer.Option(help="Where a search's study is, if in a database: a URL, or env:NAME.")
    ] = None,
    backend: Backend = "pyarrow",  # noqa: ARG001  # set by its callback
    as_json: AsJson = False,
) -> None:
    """Write one HTML page of a run or search. It shows curves and pictures; no cluster is needed."""
    check(out)
    from gan_dist.report.page import write_report

    kind, size = write_report(absolute(source), absolute(out), optuna_storage)
    written = shorten(absolute(out))
    if as_json:
        typer.echo(json.dumps({"out": written, "kind": kind, "bytes": size}))
    else:
        typer.echo(f"the {kind} {source} is in {written} ({size / 1e6:.1f} MB), for any browser, offline too")


def check(out: str) -> None:
    """Refuse an output that is not called a page of HTML."""
    suffix = PurePath(split_query(out)[0]).suffix
    if suffix.lower() not in (".html", ".htm"):
        raise GanDistError(f"--out {out}: what is written is an HTML page", "end the name in .html")
