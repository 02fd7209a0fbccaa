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

PORT = 8420


def report(
    source: Annotated[
        str, typer.Argument(metavar="RUN_OR_SEARCH", help="The folder of a run or of a search.")
    ],
    out: Annotated[str, typer.Option(help="The HTML file to write.")] = "report.html",
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the page instead, which renews itself as the run goes on.")
    ] = False,
    host: Annotated[str, typer.Option(help="With --serve: where it listens.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="With --serve: its port; 0 is any.", min=0, max=65535)] = PORT,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="GAN_DIST_TOKEN",
            help="With --serve: what readers must have; the variable is not in a list of processes.",
        ),
    ] = None,
    optuna_storage: Annotated[
        str | None, typer.Option(help="Where a search's study is, if in a database: a URL, or env:NAME.")
    ] = None,
    backend: Backend = "pyarrow",  # noqa: ARG001  # set by its callback
    as_json: AsJson = False,
) -> None:
    """Write one HTML page of a run or search. It shows curves and pictures; no cluster is needed."""
    if serve:
        _serve(source, host, port, token, optuna_storage, as_json=as_json)
        return
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


def _serve(
    source: str, host: str, port: int, token: str | None, optuna_storage: str | None, *, as_json: bool
) -> None:
    import socket
    from urllib.parse import quote

    from gan_dist.report.page import reader
    from gan_dist.report.server import LivePage, listen, serve

    with listen(host, port, token) as listener:
        kind, read = reader(absolute(source), optuna_storage)
        live = LivePage(read)
        reached = socket.gethostname() if host in ("0.0.0.0", "::") else host
        at = f"[{reached}]" if ":" in reached else reached
        address = f"http://{at}:{listener.getsockname()[1]}/"
        if token:
            address += f"?token={quote(token, safe='')}"
        if as_json:
            typer.echo(json.dumps({"url": address, "kind": kind}))
        else:
            typer.echo(f"the {kind} {source} is at {address} (Ctrl-C ends it)")
        serve(live, listener, token)
