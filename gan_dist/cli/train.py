"""The verb `train`: parse, call, print."""

from __future__ import annotations

import json
import shlex
from typing import TYPE_CHECKING, Annotated

import typer

from gan_dist.cli.options import INTERRUPTED, AsJson
from gan_dist.cli.places import program, short, with_absolute_paths
from gan_dist.core.errors import GanDistError, WorkerError

if TYPE_CHECKING:
    from gan_dist.config import RunConfig
    from gan_dist.training.preflight import RunSummary
    from gan_dist.training.progress import RunResult


def train(
    config: Annotated[
        str | None, typer.Argument(metavar="CONFIG", help="A preset's name, or a YAML file's path or URI.")
    ] = None,
    overrides: Annotated[
        list[str] | None, typer.Argument(metavar="KEY=VALUE", help="Settings, e.g. optim.g.lr=1e-4.")
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the resolved configuration and sizes; do nothing.")
    ] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the configuration's JSON Schema.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train one run; the same command again continues it."""
    from gan_dist.config import config_schema, load_config, to_yaml

    if schema:
        typer.echo(json.dumps(config_schema(), indent=2))
        return
    config = require_configuration(config)
    loaded = load_config(config, overrides or [])
    if loaded.search is not None:
        typer.echo("note: this trains one run; its section search is what gan-dist tune goes by", err=True)
    resolved = with_absolute_paths(loaded)
    if dry_run:
        from gan_dist.training.preflight import summarise

        summary = format_summary(summarise(resolved))
        typer.echo(
            to_yaml(resolved) + "\n" + "\n".join(f"# {key}: {value}" for key, value in summary.items())
        )
        if as_json:
            typer.echo(json.dumps(summary))
        return
    result = train_run(resolved, [config, *(overrides or [])])
    if as_json:
        typer.echo(json.dumps(result))
    if not result["finished"]:
        raise typer.Exit(INTERRUPTED)


def require_configuration(config: str | None) -> str:
    """Return a configuration's name, which only `--schema` does without.

    Raises:
        GanDistError: there is none.
    """
    from gan_dist.config import preset_names

    if config is None:
        raise GanDistError(f"give a configuration: one of {', '.join(preset_names())}, or a YAML file")
    return config


def format_summary(summary: RunSummary) -> dict[str, object]:
    """Return the sizes of a run as a dry run shows them."""
    fewest, workers = summary.fewest_workers, summary.workers
    return {
        "run": summary.run,
        "images": f"{summary.image_count} of {'x'.join(map(str, summary.image_shape))}, "
        f"read at {summary.resolution}x{summary.resolution}",
        "generator_parameters": summary.generator_parameters,
        "discriminator_parameters": summary.discriminator_parameters,
        "length": f"{summary.images} images, {summary.epochs:.1f} epochs",
        "metric": f"{summary.metric} of {summary.samples} images every {summary.every_kimg:g} kimg",
        "placement": f"{workers if fewest == workers else f'{fewest} to {workers}'} workers of "
        f"{summary.cpus_per_worker:g} CPUs and {summary.gpus_per_worker:g} GPUs, "
        f"{summary.batch_per_worker} images each a batch",
    }


def train_run(config: RunConfig, arguments: list[str]) -> dict[str, object]:
    """Train a run, print its result and the command that continues it, and return what `--json` prints.

    Args:
        config: The run, with absolute paths.
        arguments: What `gan-dist train` is called with to continue it.
    """
    try:
        outcome = _train(config)
    except WorkerError as error:
        again = shlex.join([*program("train"), *arguments])
        raise WorkerError(f"{error}\ncontinue it with\n  {again}") from error
    except KeyboardInterrupt:
        again = shlex.join([*program("train"), *arguments])
        typer.echo(f"ended at once, since its last checkpoint; continue it with\n  {again}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    result = _result(config, outcome)
    _print_end(config, outcome, result, arguments)
    return result


def _train(config: RunConfig) -> RunResult:
    """Check what can be checked without a cluster, then train and show it."""
    from gan_dist.core.storage.lock import folder_lock
    from gan_dist.training.preflight import prepare
    from gan_dist.training.progress import ProgressLine

    with ProgressLine(config.log.every_s) as line:
        line.status("loading")
        done = prepare(config)
        if done is not None:
            return done
        from gan_dist.cluster.train import driver
        from gan_dist.cluster.train.status import RunStatus

        line.status("starting workers")
        warned = 0

        def show(status: RunStatus) -> None:
            nonlocal warned
            for sentence in status.warnings[warned:]:
                line.print(f"warning: {sentence}")
            warned = len(status.warnings)
            if status.progress is None:
                line.restart()
            else:
                line.update(status.progress)

        with folder_lock(config.run_uri, line.print):
            return driver.run(config, show)


def _result(config: RunConfig, outcome: RunResult) -> dict[str, object]:
    from gan_dist.core import storage
    from gan_dist.core.storage.hashed_folder import checkpoint_names
    from gan_dist.models import release

    run_uri = config.run_uri
    best = release.read_best(run_uri) if storage.exists(storage.join(run_uri, release.BEST)) else None
    checkpoints = checkpoint_names(run_uri)
    return {
        "run": run_uri,
        "kimg": outcome.images / 1000,
        "finished": outcome.finished,
        "images_per_second": outcome.images_per_second,
        "metric": best and best["metric"],
        "value": outcome.value,
        "best": best and {**best, "release": storage.join(run_uri, str(best["release"]))},
        "checkpoint": storage.join(run_uri, checkpoints[0]) if checkpoints else None,
    }


def _print_end(
    config: RunConfig, outcome: RunResult, result: dict[str, object], arguments: list[str]
) -> None:
    from gan_dist.core import storage

    run = short(str(result["run"]))
    state = "finished at" if outcome.finished else "stopped at"
    speed = f", {outcome.images_per_second:,.0f} images/s" if outcome.images_per_second else ""
    typer.echo(f"{config.name} {state} {outcome.images / 1000:g} kimg{speed}")
    best = result["best"]
    if isinstance(best, dict):
        typer.echo(
            f"  {best['metric']} {best['value']:.3f} at its best, after {best['images'] / 1000:g} kimg"
        )
        typer.echo(f"  best        {short(best['release'])}")
    if storage.exists(storage.join(str(result["run"]), "samples")):
        typer.echo(f"  samples     {run}/samples")
    typer.echo(f"  metrics     {run}/metrics.jsonl, or: tensorboard --logdir {run}/tensorboard")
    typer.echo(f"  report      {shlex.join([*program('report'), run])}")
    if result["checkpoint"]:
        typer.echo(f"  checkpoint  {short(str(result['checkpoint']))}")
    if outcome.stopped_early:
        typer.echo(
            f"ended early: eval.patience={config.eval.patience} evaluations were no better than those before"
        )
        arguments = [*(a for a in arguments if not a.startswith("eval.patience=")), "eval.patience=null"]
    elif outcome.finished:
        arguments = [a for a in arguments if not a.startswith("train.kimg=")]
        arguments.append(f"train.kimg={2 * config.train.kimg:g}")
    typer.echo(f"continue it with\n  {shlex.join([*program('train'), *arguments])}")
