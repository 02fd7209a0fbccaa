"""The verb `publish`: parse, call, print."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from gan_dist.cli.options import AsJson, Backend
from gan_dist.cli.paths import absolute, command
from gan_dist.core.errors import GanDistError


def publish(
    source: Annotated[
        str, typer.Argument(metavar="RELEASE", help="A release, or the folder of a run or a search.")
    ],
    to: Annotated[str, typer.Option(help="The model repository, hf://user/name; made if it is not there.")],
    license_name: Annotated[
        str | None,
        typer.Option("--license", help="Of the weights, e.g. apache-2.0; that of the images when absent."),
    ] = None,
    private: Annotated[
        bool, typer.Option("--private", help="Make a new repository that only its owners see.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Delete what else the repository holds, if no release is there.")
    ] = False,
    with_discriminator: Annotated[
        bool, typer.Option("--with-discriminator", help="Also write what init.from needs to train on.")
    ] = False,
    backend: Backend = "pyarrow",  # noqa: ARG001  # set by its callback
    as_json: AsJson = False,
) -> None:
    """Write a release and its model card into a model repository."""
    check(to)
    from gan_dist.artifacts.publish import find_release
    from gan_dist.artifacts.publish import publish as write

    found = find_release(absolute(source))
    for warning in found.warnings:
        typer.echo(f"warning: {warning}", err=True)
    url = write(
        found,
        to,
        with_discriminator=with_discriminator,
        replace=replace,
        private=private,
        license_name=license_name,
    )
    typer.echo(f"{found.metric} {found.value:.6g}, of {source}, is in {to}")
    typer.echo(f"  commit  {url}")
    typer.echo(f"go on with\n  {command('sample', to)}")
    if as_json:
        typer.echo(json.dumps({"url": url, "repository": to, "metric": found.metric, "value": found.value}))


def check(to: str) -> None:
    """Refuse what is no model repository, without a look at any file."""
    from gan_dist.core.storage import hub

    if not hub.is_hub(to):
        raise GanDistError(
            f"--to {to} is no model repository", "write hf://user/name; best --to copies to a folder"
        )
    hub.parse(to)
