"""The verb `best`: parse, call, print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from gan_dist.cli.mixture import mix
from gan_dist.cli.options import AsJson, Backend, Trust
from gan_dist.cli.paths import absolute, command, load_run, shorten
from gan_dist.cli.promotion import full_keys
from gan_dist.cli.train import train_run
from gan_dist.core.errors import GanDistError
from gan_dist.core.interrupts import INTERRUPTED

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
    prefer: Annotated[
        str | None,
        typer.Option(help="Of a search with several objectives: which one; the first when absent."),
    ] = None,
    retrain: Annotated[
        bool, typer.Option("--retrain", help="Then train its configuration from the start, as NAME-best.")
    ] = False,
    with_discriminator: Annotated[
        bool, typer.Option("--with-discriminator", help="Also copy what init.from needs to train on.")
    ] = False,
    mixture: Annotated[
        int | None,
        typer.Option(
            min=2, metavar="N", help="Of a search: a mixture of at most N of its trials' releases, as one."
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(min=0, max=2**32 - 1, help="--mixture: seed of the halves of the real images."),
    ] = 0,
    trust: Trust = None,
    backend: Backend = "pyarrow",  # noqa: ARG001  # set by its callback
    as_json: AsJson = False,
) -> None:
    """Copy the best checkpoint of a search or run as a release. No cluster is needed."""
    check(overrides, to, mixture, retrain=retrain, with_discriminator=with_discriminator)
    if mixture is not None and to is not None:
        mix(source, to, mixture, prefer, seed, trust or [], as_json=as_json)
        return
    from gan_dist.artifacts.best import find_best
    from gan_dist.artifacts.objectives import format_point

    found = find_best(absolute(source), prefer)
    for warning in found.warnings:
        typer.echo(f"warning: {warning}", err=True)
    if retrain:
        from gan_dist.config import named_classes
        from gan_dist.core.import_path import require_trust
        from gan_dist.training.preflight import prepare

        require_trust(named_classes(found.config), trust or (), shorten(found.release))
        # Errors in the settings come before anything is written.
        prepare(retraining(found, found.release, overrides or [])[0])
    folder, was_there = found.release, False
    if to is not None:
        from gan_dist.artifacts.publish import copy_release

        folder = absolute(to)
        was_there = not copy_release(found, folder, with_discriminator=with_discriminator)
    trial = "" if found.trial is None else f", of trial {found.trial} among {found.trials}"
    typer.echo(f"{found.metric} {found.value:.6g} after {found.images / 1000:g} kimg{trial}")
    if found.point:
        typer.echo(f"  all      {format_point(found.point)}")
    typer.echo(f"  release  {shorten(folder)}{', where it was already' if was_there else ''}")
    result: dict[str, object] = {
        "dir": folder,
        "metric": found.metric,
        "value": found.value,
        "images": found.images,
        "trial": found.trial,
        "run": found.run,
        **({"values": dict(found.point)} if found.point else {}),
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


def check(
    overrides: Sequence[str] | None,
    to: str | None,
    mixture: int | None = None,
    *,
    retrain: bool,
    with_discriminator: bool,
) -> None:
    """Refuse arguments that do not go together, without a look at any file."""
    if overrides and not retrain:
        raise GanDistError(f"{overrides[0]}: settings are for --retrain", "add it, or leave them out")
    if retrain and to is None:
        raise GanDistError("--retrain needs --to DIR, where the configuration that it trains is kept")
    if with_discriminator and to is None:
        raise GanDistError("--with-discriminator needs --to DIR, where the copy goes")
    if mixture is None:
        return
    for option, wanted in (("--retrain", retrain), ("--with-discriminator", with_discriminator)):
        if wanted:
            raise GanDistError(
                f"--mixture {mixture} and {option} do not go together: a mixture is of several generators",
                f"leave --mixture or {option} out",
            )
    if to is None:
        raise GanDistError(f"--mixture {mixture} needs --to DIR, where the release goes")


def retraining(found: BestRelease, folder: str, overrides: Sequence[str]) -> tuple[RunConfig, list[str]]:
    """Return a run that trains the configuration of a release from the start, beside the search or run.

    `folder` has the release's configuration. The result is the run's configuration, and the arguments of
    `gan-dist train` for it.
    """
    from gan_dist.config.fields import override, valid_name
    from gan_dist.core import storage
    from gan_dist.models.release import CONFIG

    settings = full_keys(overrides)
    source, name = storage.join(folder, CONFIG), override("name", f"{valid_name(found.name)}-best")
    config = load_run(source, [name, override("storage", found.parent), *settings])
    return config, [shorten(source), name, override("storage", shorten(found.parent)), *settings]


def _print_next(found: BestRelease, folder: str, *, copied: bool) -> None:
    typer.echo("go on with")
    typer.echo(f"  {command('sample', shorten(folder))}")
    typer.echo(f"  {command('evaluate', shorten(folder))}")
    if copied:
        _, arguments = retraining(found, folder, [f"train.kimg={2 * found.config.train.kimg:g}"])
        typer.echo(f"  {command('train', *arguments)}")
    else:
        typer.echo(f"  {command('best', shorten(found.source), '--to', f'releases/{found.name}')}")
