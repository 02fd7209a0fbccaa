"""What `tune` prints of a search: what it will cost, and at its end what came and what to do next."""

from __future__ import annotations

import json
import math
import shlex
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import typer

from gan_dist.cli.options import print_record
from gan_dist.cli.paths import command, shorten
from gan_dist.cli.train import format_summary, without

if TYPE_CHECKING:
    from gan_dist.search.budget import Reached
    from gan_dist.search.outlook import Outlook
    from gan_dist.search.plan import Plan
    from gan_dist.search.study import SearchStudy
    from gan_dist.training.preflight import RunSummary

PROMOTED = 3
"""Trials in the printed command of `promote`, at most."""


class Outcome(NamedTuple):
    """What became of a search in this process."""

    study: SearchStudy
    outlook: Outlook
    interrupted: bool
    reached: Reached | None
    """The limit of the budget that ended it."""


def print_plan(plan: Plan, summary: RunSummary, packing: dict[str, object], *, as_json: bool) -> None:
    """Print what a search will do: `packing` is what is to be packed before."""
    from gan_dist.core.storage import redact

    search, sizes = plan.search, format_summary(plan.config, summary)
    scheduler = f"{search.scheduler}, from {plan.grace / 1000:g} kimg on"
    if plan.evolves:
        step = "in lock step" if search.synch else "each when it gets there"
        scheduler = f"{search.scheduler}, every {plan.ends[0] / 1000:g} kimg, {step}"
    record = packing | {
        "search": redact(plan.uri),
        "keys": list(plan.space.distributions),
        "trials": "until the budget is spent" if search.most_trials == math.inf else search.trials,
        "scheduler": scheduler,
        "each": sizes["length"],
        "metric": sizes["metric"],
        "placement": sizes["placement"],
        "cost": cost(plan, summary.images),
        **({"objectives": search.objectives} if search.objectives else {}),
    }
    print_record(record, as_json=as_json)


def cost(plan: Plan, length: int) -> str:
    """Return what a search costs before any trial, in words; `length` is that of a whole trial in images."""
    from gan_dist.search.forecast import mean_images
    from gan_dist.search.outlook import format_kimg
    from gan_dist.search.replicas import TOP

    search = plan.search
    mean, count = mean_images(search, plan.grace, length), search.most_trials
    each = f"{length / 1000:g} kimg each"
    if mean < length:
        each += f", of which {search.scheduler} lets {mean / length:.0%} through"
    limits = search.budget.limits if search.budget else {}
    if "images" in limits:
        count = min(count, int(limits["images"]) / mean)
    about = f"about {format_kimg(count * mean)}: {count:,.0f} trials of {each}" if count < math.inf else each
    again = search.replicates * TOP
    more = [f"{again} repetitions of {format_kimg(again * length)} in all"] if again else []
    return "; ".join([about, *more, *(f"search.budget.{key}={value}" for key, value in limits.items())])


def print_result(plan: Plan, outcome: Outcome, metric: str, arguments: list[str], *, as_json: bool) -> None:
    """Print what became of a search; `arguments` are those of the command that continues it."""
    from gan_dist.artifacts.objectives import format_point
    from gan_dist.core.storage import join
    from gan_dist.models.release import read_best
    from gan_dist.search.replicas import record_replicas
    from gan_dist.search.study import images_trained, lowest_value

    study, interrupted, reached = outcome.study, outcome.interrupted, outcome.reached
    trials = study.trials()
    spent = sum(map(images_trained, trials))
    measured = [trial for trial in trials if trial.intermediate_values]
    best = min(measured, key=lambda trial: (lowest_value(trial), trial.number), default=None)
    front = study.front()
    best = front[0][0] if front else best
    state = "stopped with" if interrupted else "finished:"
    typer.echo(f"{plan.config.name} {state} {len(trials)} trials, {spent / 1000:,.0f} kimg trained")
    if best is not None:
        values = "" if plan.evolves else f": {shlex.join(plan.space.overrides(best.params))}"
        typer.echo(f"  {metric} {lowest_value(best):.3f} at its best, by trial {best.number}{values}")
    for trial, point in front:
        typer.echo(f"  front: trial {trial.number}, {format_point(point)}")
    if study.objectives and not front:
        typer.echo("  front: no trial so far meets the constraints of search.objectives")
    forecast = outcome.outlook.close(min(map(lowest_value, measured), default=math.inf))
    if text := _forecast_and_came(forecast, metric):
        typer.echo(f"  forecast    {text}")
    for one in record_replicas(plan, study, metric) if not (interrupted or reached) else []:
        values = ", ".join(f"{value:.3f}" for value in one.values)
        typer.echo(f"  trial {one.trial} over seeds: {one.mean:.3f} +- {one.std:.3f} ({values})")
    typer.echo(f"  study       {_dashboard(plan)}")
    typer.echo(f"  report      {_report_command(plan)}")
    if reached is not None:
        typer.echo(
            f"{reached.text}; trials that have not ended are kept, and a larger budget goes on with them"
        )
        key = f"search.budget.{reached.key}"
        more = f"{2 * reached.limit:.15g}" if isinstance(reached.limit, int | float) else "..."
        arguments = [*without(key, arguments), f"{key}={more}"]
    elif not interrupted and not study.unfinished:
        if study.target_reached:
            typer.echo(f"no more trials: search.target={plan.search.target:g} is reached")
            arguments = [*without("search.target", arguments), "search.target=null"]
        elif plan.search.algorithm != "grid" and not plan.evolves:
            arguments = [*without("search.trials", arguments), f"search.trials={2 * plan.search.trials}"]
    typer.echo(f"continue it with\n  {command('tune', *map(redact_argument, arguments))}")
    lineage = _print_lineage(plan, study) if plan.evolves and best is not None else {}
    typer.echo(f"take the best with\n  {command('best', shorten(plan.uri), '--to', 'best')}")
    if best is not None:
        typer.echo(f"train the best further with\n  {_promote_command(plan, len(measured))}")
    if as_json:
        result: dict[str, object] | None = None
        if best is not None:
            run = plan.trial(best.number, best.params).run_uri
            result = {"value": lowest_value(best), "trial": best.number, "config": best.params}
            result |= lineage or {"checkpoint": join(run, str(read_best(run)["release"]))}
        record = {"search": plan.uri, "metric": metric, "trials": len(trials), "best": result}
        record["target_reached"] = study.target_reached
        if study.objectives:
            record["front"] = [{"trial": trial.number, "values": dict(point)} for trial, point in front]
        record |= {"budget_reached": reached.key if reached else None, "forecast": forecast}
        typer.echo(json.dumps({**record, "images_trained": spent}))


def _forecast_and_came(record: Mapping[str, Any], metric: str) -> str:
    """Return the first forecast of a value, and what came, in words; empty where there was none."""
    from gan_dist.search.outlook import format_forecast, format_kimg

    came, first = record["came"], next((one for one in record["made"] if one["value"]), None)
    if first is None or came["value"] is None:
        return ""
    said = f"after {first['trials']} trials, {format_forecast(first, metric)}"
    return f"{said}; came {format_kimg(came['images'])}, {came['value']:.3f}"


def _print_lineage(plan: Plan, study: SearchStudy) -> dict[str, object]:
    """Write the configuration that repeats the best member, and print where it comes from."""
    from gan_dist.search.lineage import winner

    lines, found = winner(plan, study.trials())
    typer.echo("\n".join(f"    {line}" for line in lines))
    typer.echo(f"repeat its whole training with\n  {command('train', shorten(str(found['lineage'])))}")
    return found


def redact_argument(argument: str) -> str:
    """Return an argument to print, without a value that may hold a password."""
    from gan_dist.core.storage.redaction import holds_secret
    from gan_dist.search.database import ENV

    key, _, value = argument.partition("=")
    database = key == "search.optuna_storage" and not value.startswith(ENV)
    return f"{key}=..." if database or holds_secret(value) else argument


def _report_command(plan: Plan) -> str:
    return command("report", shorten(plan.uri), *_database(plan))


def _promote_command(plan: Plan, measured: int) -> str:
    """Return the command that trains the best of the measured trials ten times as long."""
    top = ["--top", str(min(PROMOTED, measured))]
    longer = f"train.kimg={10 * plan.config.train.kimg:g}"
    return command("promote", shorten(plan.uri), *top, longer, *_database(plan))


def _database(plan: Plan) -> list[str]:
    """Return the options of a study in a database, without a URL, which may hold a password."""
    from gan_dist.search.database import ENV

    url = plan.search.optuna_storage
    return ["--optuna-storage", url if url.startswith(ENV) else "..."] if url else []


def _dashboard(plan: Plan) -> str:
    """Return how to open the study, without a database's URL, which may hold a password."""
    from gan_dist.core.storage import join, redact
    from gan_dist.search.database import ENV
    from gan_dist.search.study_storage import JOURNAL

    journal = join(plan.uri, JOURNAL)
    url = plan.search.optuna_storage
    if url and url.startswith(ENV):
        return f'optuna-dashboard "${url.removeprefix(ENV)}"; its name is {plan.config.name}'
    if url:
        return f"optuna-dashboard, with search.optuna_storage; its name is {plan.config.name}"
    if "://" in journal:
        return f"optuna-dashboard {JOURNAL}, after a download from {redact(journal)}"
    return shlex.join(["optuna-dashboard", shorten(journal)])
