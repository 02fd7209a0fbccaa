"""The verb `promote`: parse, call, print."""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from gan_dist.cli.options import AsJson, Backend, Trust, complete_key, print_warning
from gan_dist.cli.paths import absolute, command, shorten
from gan_dist.cli.promotion import Plan, check, make_plan
from gan_dist.cli.train import train_run
from gan_dist.core.errors import BusyError, CheckpointError, GanDistError, extended
from gan_dist.core.interrupts import INTERRUPTED

if TYPE_CHECKING:
    from gan_dist.training.promotion import Origin, Promotion

TOP = 3


def promote(
    source: Annotated[str, typer.Argument(metavar="SEARCH", help="The folder of a search.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE",
            help="Settings of the runs, e.g. train.kimg=20000 scale.workers=8; those that a run may change.",
            autocompletion=complete_key,
        ),
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of trials.")] = TOP,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", "-n", help="Show the runs, and an estimate of their hours; do nothing."),
    ] = False,
    optuna_storage: Annotated[
        str | None, typer.Option(help="Where the search's study is, if in a database: a URL, or env:NAME.")
    ] = None,
    trust: Trust = None,
    backend: Backend = "pyarrow",  # noqa: ARG001  # set by its callback
    as_json: AsJson = False,
) -> None:
    """Train the best trials of a search further, from their checkpoints.

    Each goes on from its newest checkpoint as a run of its own beside the search, SEARCH-TRIAL (or, with
    name=NAME, NAME-TRIAL), one after another, the best first; the same command again continues. With as many
    workers as the trial had, and as many CPUs or GPUs for each, it gets the bits that `gan-dist best
    --retrain` would reach from the start. The search is not changed.
    """
    check(overrides)
    plan = make_plan(absolute(source), overrides or [], top, optuna_storage, trust or [])
    for note in plan.notes:
        typer.echo(f"note: {note}", err=True)
    if dry_run:
        for one in plan.runs:
            _print_plan(plan, one)
        if as_json:
            runs = [_record(one, one.origin()) for one in plan.runs]
            typer.echo(json.dumps(_whole_record(plan, runs)))
        _raise_refused(plan)
        return
    again = command("promote", *_arguments(source, overrides or [], top, optuna_storage, trust or []))
    finished, runs = _train(plan, again)
    if as_json:
        typer.echo(json.dumps(_whole_record(plan, runs)))
    if not finished:
        typer.echo(f"go on with all of them by\n  {again}", err=True)
        raise typer.Exit(INTERRUPTED)
    _raise_refused(plan)


def _arguments(
    source: str, overrides: Sequence[str], top: int, optuna_storage: str | None, trust: Sequence[str]
) -> list[str]:
    """Return the arguments of the same command."""
    from gan_dist.search.database import ENV

    database = []
    if optuna_storage is not None:
        database = ["--optuna-storage", optuna_storage if optuna_storage.startswith(ENV) else "..."]
    trusted = [word for name in trust for word in ("--trust", name)]
    return [source, "--top", str(top), *overrides, *database, *trusted]


def _train(plan: Plan, again: str) -> tuple[bool, list[dict[str, object]]]:
    """Train the runs one after another; return whether all came to their end, and the record of each.

    A run that fails by itself, as where a gradient is not finite, leaves the others to go on. `again` is the
    same command.
    """
    from gan_dist.core.storage import join
    from gan_dist.models.release import CONFIG

    records: list[dict[str, object]] = []
    for one, origin in _begin(plan):
        typer.echo(f"{one.config.name}, of trial {one.trial}, from {origin.images / 1000:g} kimg on")
        try:
            result = train_run(one.config, [shorten(join(one.config.run_uri, CONFIG))])
        except GanDistError as error:
            if error.external:
                raise extended(error, f"go on with all of them by\n  {again}") from error
            plan.refused[one.trial] = error
            typer.echo(f"{one.config.name} failed: {error}", err=True)
            continue
        best = result["best"]
        same = isinstance(best, dict) and best["metric"] == plan.ranking.metric
        value = best["value"] if isinstance(best, dict) and same else None
        own = {"trial": one.trial, "from_kimg": origin.images / 1000, "trial_value": one.best.value}
        records.append({**result, **own, "value": value})
        if not result["finished"]:
            return False, records
    for record in records:
        run, value = shorten(str(record["run"])), record["value"]
        came = f"{record['trial_value']:.6g} as trial {record['trial']}"
        came += f", {value:.6g} by {record['kimg']:g} kimg" if isinstance(value, float) else ""
        typer.echo(f"{run}: {plan.ranking.metric} {came}; take it with")
        typer.echo(f"  {command('best', run, '--to', 'best')}")
    return True, records


def _begin(plan: Plan) -> list[tuple[Promotion, Origin]]:
    """Begin the folders of the runs that have none yet, while no other process works on the search."""
    from gan_dist.core.storage.lock import folder_lock

    begun = [(one, one.origin()) for one in plan.runs]
    if all(origin is not None for _, origin in begun):
        return [(one, origin) for one, origin in begun if origin is not None]
    found = []
    with ExitStack() as search:
        try:
            search.enter_context(folder_lock(plan.uri, lambda text: typer.echo(text, err=True)))
        except BusyError as error:
            remedy = "let the search end, or stop it: its trials go on from their checkpoints later"
            raise BusyError(error.problems[0].what, remedy) from None
        for one in plan.runs:
            try:
                with folder_lock(one.config.run_uri, print_warning):
                    found.append((one, one.begin(print_warning)))
            except CheckpointError as error:
                plan.refused[one.trial] = error
                print_warning(str(error))
    return found


def _record(one: Promotion, origin: Origin | None) -> dict[str, object]:
    """Return what `--json` says of a run before it is trained."""
    from gan_dist.core.storage import join
    from gan_dist.training.checkpoint import images_of, newest_images

    checkpoint = origin.checkpoint if origin else str(one.checkpoint)
    from_images = images_of(checkpoint)
    images = newest_images(one.config.run_uri) if origin else from_images
    left, rate = max(0, one.total - images), one.images_per_second
    return {
        "run": one.config.run_uri,
        "trial": one.trial,
        "checkpoint": join(one.trial_uri, checkpoint),
        "begun": origin is not None,
        "from_kimg": from_images / 1000,
        "kimg": one.total / 1000,
        "kimg_left": left / 1000,
        "value": one.best.value,
        "hours": left / rate / 3600 if rate else None,
        "changes": {key: [before, now] for key, before, now in one.changes},
    }


def _whole_record(plan: Plan, runs: list[dict[str, object]]) -> dict[str, object]:
    refused = [{"trial": trial, "error": str(error)} for trial, error in plan.refused.items()]
    return {"search": plan.uri, "metric": plan.ranking.metric, "runs": runs, "refused": refused}


def _print_plan(plan: Plan, one: Promotion) -> None:
    record = _record(one, one.origin())
    best, hours = one.best, record["hours"]
    figure = f"{plan.ranking.metric} {best.value:.6g} after {best.images / 1000:g} kimg"
    typer.echo(f"{one.config.name}: trial {one.trial}, {figure}")
    typer.echo(
        f"  from    {shorten(str(record['checkpoint']))}{', begun already' if record['begun'] else ''}"
    )
    typer.echo(f"  folder  {shorten(one.config.run_uri)}")
    length = f"{record['kimg_left']:g} kimg, from {record['from_kimg']:g} to {record['kimg']:g}"
    typer.echo(f"  train   {length}{_estimate(one, hours)}")
    for key, before, now in one.changes:
        typer.echo(f"  {key}: {before} -> {now}")


def _estimate(one: Promotion, hours: object) -> str:
    if not isinstance(hours, float) or one.images_per_second is None:
        return ""
    now, before = one.config.scale.workers, one.trial_workers
    rate = f"{one.images_per_second * before / now:,.0f} images/s of the trial"
    return f", about {hours:.3g} h by the {rate}{f' times {now}/{before} workers' if now != before else ''}"


def _raise_refused(plan: Plan) -> None:
    """Raise the errors of the trials that were not promoted, if there are any."""
    errors = list(plan.refused.values())
    if len(errors) == 1:
        raise errors[0]
    if errors:
        raise GanDistError([problem for error in errors for problem in error.problems])
