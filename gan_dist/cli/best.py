"""The verb `best`: parse, call, print."""

from __future__ import annotations

import json
import shlex
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from gan_dist.cli.options import INTERRUPTED, AsJson, Backend
from gan_dist.cli.places import absolute, program, short, with_absolute_paths
from gan_dist.cli.train import train_run
from gan_dist.core.errors import GanDistError

if TYPE_CHECKING:
    from gan_dist.artifacts.best import BestRelease
    from gan_dist.config import RunConfig


def best(
    source: Annotated[
        str, typer.Argument(metavar="SEARCH_OR_RUN", help="The folder of a search or of a run.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(metavar="KEY=VALUE", help="With --retrain: settings, e.g. kimg=1000."),
    ] = None,
    to: Annotated[
        str | None, typer.Option(help="Folder or URI to copy the release to; only told about when absent.")
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Then train its configuration from the start, as NAME-best.")
    ] = False,
    backend: Backend = "pyarrow",  # noqa: ARG001  # set by its callback
    as_json: AsJson = False,
) -> None:
    """Copy the best checkpoint of a search or run as a release. No cluster is needed."""
    check(overrides, to, retrain=retrain)
    from gan_dist.artifacts.best import find_best

    found = find_best(absolute(source))
    for warning in found.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if retrain:
        from gan_dist.training.preflight import prepare

        # What is wrong with its settings is said before anything is written.
        prepare(retraining(found, found.release, overrides or [])[0])
    folder, there_already = found.release, False
    if to is not None:
        from gan_dist.artifacts.publish import copy_release

        folder = absolute(to)
        there_already = not copy_release(found, folder)
    _print_found(found, folder, there_already=there_already)
    result: dict[str, object] = {
        "dir": folder,
        "metric": found.metric,
        "value": found.value,
        "images": found.images,
        "trial": found.trial,
        "run": found.run,
    }
    retrained = None
    if retrain:
        config, arguments = retraining(found, folder, overrides or [])
        result["retrained"] = retrained = train_run(config, arguments)
    else:
        _print_next(found, folder, copied=to is not None)
    if as_json:
        typer.echo(json.dumps(result))
    if retrained is not None and not retrained["finished"]:
        raise typer.Exit(INTERRUPTED)


def check(overrides: Sequence[str] | None, to: str | None, *, retrain: bool) -> None:
    """Refuse what can be seen to be wrong by the arguments alone.

    Raises:
        GanDistError: settings without --retrain, or that without a place for the configuration.
    """
    if overrides and not retrain:
        raise GanDistError(f"{overrides[0]}: settings are for --retrain", "add it, or leave them out")
    if retrain and to is None:
        raise GanDistError("--retrain needs --to DIR, where the configuration that it trains is kept")


def retraining(found: BestRelease, folder: str, overrides: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """Return the run that trains a winner's configuration from the start, beside the search or run.

    Args:
        found: The winner.
        folder: A folder with its configuration: its release, or where that has been copied to.
        overrides: Settings as `key=value`; `kimg=N` is short for `train.kimg=N`.

    Returns:
        Its configuration, and what `gan-dist train` is called with for it.

    Raises:
        ConfigError: an override is wrong.
    """
    from gan_dist.config import load_config
    from gan_dist.core import storage
    from gan_dist.models.release import CONFIG

    settings = [f"train.{one}" if one.startswith("kimg=") else one for one in overrides]
    source, name = storage.join(folder, CONFIG), f"name={found.name}-best"
    config = load_config(source, [name, f"storage={found.kept_in}", *settings])
    arguments = [short(source), name, f"storage={short(found.kept_in)}", *settings]
    return with_absolute_paths(config), arguments


def _print_found(found: BestRelease, folder: str, *, there_already: bool) -> None:
    trial = "" if found.trial is None else f", of trial {found.trial} among {found.trials}"
    typer.echo(f"{found.metric} {found.value:.6g} after {found.images / 1000:g} kimg{trial}")
    typer.echo(f"  release  {short(folder)}{', where it was already' if there_already else ''}")


def _print_next(found: BestRelease, folder: str, *, copied: bool) -> None:
    """Print the commands that use the release and that train its configuration for longer."""
    release = short(folder)
    commands = [[*program("sample"), release], [*program("evaluate"), release]]
    if copied:
        _, arguments = retraining(found, folder, [f"train.kimg={2 * found.config.train.kimg:g}"])
        commands.append([*program("train"), *arguments])
    else:
        commands.append([*program("best"), short(found.source), "--to", f"releases/{found.name}"])
    typer.echo("go on with")
    for command in commands:
        typer.echo(f"  {shlex.join(command)}")
