"""The verb `serve`: parse, call, print."""

from __future__ import annotations

import json
import math
from typing import Annotated

import typer

from gan_dist.cli.options import AsJson, Backend, Trust
from gan_dist.cli.paths import absolute
from gan_dist.core import extras
from gan_dist.core.access import require_protected
from gan_dist.core.interrupts import stop_requests


def serve(
    source: Annotated[
        str,
        typer.Argument(
            metavar="RELEASE",
            help="A release, a checkpoint, or the folder of a run or search, whose best release is served.",
        ),
    ],
    host: Annotated[
        str, typer.Option(help="Address to listen at; beyond this machine only with a token.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Its port; 0 for a free one.")] = 8000,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="GAN_DIST_TOKEN",
            help="What requests must bring; the variable is not in a list of processes.",
        ),
    ] = None,
    replicas: Annotated[int, typer.Option(min=1, help="Processes on the cluster that make images.")] = 1,
    cpus_per_replica: Annotated[
        float | None,
        typer.Option(min=0.01, help="CPUs of each; this machine's, or 1 on a cluster, when absent."),
    ] = None,
    renew_s: Annotated[
        float, typer.Option(min=0.1, help="Seconds between looks for a better release in the folder.")
    ] = 10.0,
    trust: Trust = None,
    backend: Backend = "pyarrow",  # noqa: ARG001  # set by its callback
    as_json: AsJson = False,
) -> None:
    """Answer over HTTP with a generator's images. Ctrl-C ends it."""
    if cpus_per_replica is not None and not math.isfinite(cpus_per_replica):
        raise typer.BadParameter(f"{cpus_per_replica} is not a finite number.")
    extras.require("serve", "serve")
    from gan_dist.cluster.connect import connect
    from gan_dist.cluster.serve import driver
    from gan_dist.cluster.serve.served import find_place
    from gan_dist.models import release

    require_protected(host, token)
    uri = absolute(source)
    # What is wrong with it is told before anything is started.
    release.load(find_place(uri)[0], trust=trust or ())
    with connect(), stop_requests() as stopped:
        address = driver.Address(host, port, token)
        with driver.serving(
            uri, address, trust=trust or (), replicas=replicas, cpus=cpus_per_replica, renew_s=renew_s
        ) as url:
            typer.echo(f"serving {source} at {url}; Ctrl-C ends it", err=as_json)
            if as_json:
                typer.echo(json.dumps({"url": url}))
            driver.wait_until(stopped)
    typer.echo("stopped; all requests were answered", err=True)
