"""The verb `train`: parse, call, print."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from gan_dist.cli.images import CONFIG_HELP, packed, read_given
from gan_dist.cli.options import AsJson, complete_config, complete_key, print_record, print_warning
from gan_dist.cli.paths import command, shorten
from gan_dist.core.errors import GanDistError, WorkerError, extended
from gan_dist.core.image_size import ImageSize
from gan_dist.core.interrupts import INTERRUPTED

if TYPE_CHECKING:
    from gan_dist.cluster.train.status import RunStatus
    from gan_dist.config import RunConfig
    from gan_dist.training.preflight import RunSummary
    from gan_dist.training.progress import ProgressLine, RunResult

REPORT = "report.html"
_END_REASONS = {
    "eval.patience": "eval.patience={0.patience} evaluations were no better than those before",
    "eval.target": "two evaluations, one after another, were at or below eval.target={0.target:g}",
}


def train(
    config: Annotated[
        str | None, typer.Argument(metavar="CONFIG", help=CONFIG_HELP, autocompletion=complete_config)
    ] = None,
    overrides: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="KEY=VALUE", help="Settings, e.g. optim.g.lr=1e-4.", autocompletion=complete_key
        ),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", "-n", help="Show the resolved configuration and sizes; do nothing.")
    ] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the configuration's JSON Schema.")] = False,
    data: Annotated[
        str | None, typer.Option(metavar="IMAGES", help="The images: CONFIG, or data.path of a CONFIG.")
    ] = None,
    outdir: Annotated[
        str | None, typer.Option(metavar="DIR", help="The folder of the runs: storage=DIR.")
    ] = None,
    repack: Annotated[
        bool, typer.Option("--repack", help="Pack IMAGES again, as after an edit that kept names and sizes.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Train one run; the same command again continues it."""
    if schema:
        from gan_dist.config import config_schema

        typer.echo(json.dumps(config_schema(), indent=2))
        return
    config, overrides = with_aliases(config, overrides or [], data, outdir)
    config = require_configuration(config)
    arguments = [config, *overrides]
    from gan_dist.artifacts.trackers.checks import require_trackers

    given = read_given(config, overrides, repack=repack)
    run = given.settings.config()
    if run.search is not None:
        typer.echo("note: this trains one run; its section search is what gan-dist tune goes by", err=True)
        run = run.model_copy(update={"search": None})
    require_trackers(run.log.to, print_warning, ask=given.needs_packing and not dry_run)
    if dry_run:
        from gan_dist.config import to_yaml
        from gan_dist.training.preflight import summarise

        sizes = summarise(run, given.manifest)
        init = run.init.model_copy(update={"sha256": sizes.init.sha256})
        typer.echo(to_yaml(run.model_copy(update={"init": init})))
        summary = given.summary() | format_summary(run, sizes)
        print_record(summary, as_json=as_json, prefix="# ")
        return
    if given.needs_packing:
        from gan_dist.training.preflight import prepare

        prepare(run, given.manifest)
    with packed(given) as settings:
        result = train_run(settings.config().model_copy(update={"search": None}), arguments)
    if as_json:
        typer.echo(json.dumps(result))
    if not result["finished"]:
        raise typer.Exit(INTERRUPTED)


def with_aliases(
    config: str | None, overrides: list[str], data: str | None, outdir: str | None
) -> tuple[str | None, list[str]]:
    """Return CONFIG and KEY=VALUE with what --data and --outdir, as in StyleGAN's programs, stand for."""
    from gan_dist.config.fields import override

    if data is not None and config is not None and "=" in config:
        overrides = [config, *overrides]
        config = None
    if data is not None and config is None:
        config = data
    elif data is not None:
        overrides = [*overrides, override("data.path", data)]
    if outdir is not None:
        overrides = [*overrides, override("storage", outdir)]
    return config, overrides


def require_configuration(config: str | None) -> str:
    """Return the configuration, or raise a GanDistError if none was given; only `--schema` needs none."""
    from gan_dist.config import preset_names

    if config is None:
        presets = ", ".join(preset_names())
        raise GanDistError(f"give a configuration: one of {presets}, or a YAML file; or images")
    return config


def format_summary(config: RunConfig, summary: RunSummary) -> dict[str, object]:
    """Return the sizes of a run as a dry run shows them."""
    from gan_dist.core.storage import redact

    scale = config.scale
    fewest, workers = scale.fewest, scale.workers
    height, width, channels = summary.image_shape
    return {
        "run": redact(config.run_uri),
        "images": f"{summary.image_count} of {ImageSize(height, width)}x{channels}, read at {summary.size}",
        "generator_parameters": summary.generator_parameters,
        "discriminator_parameters": summary.discriminator_parameters,
        **summary.init.words,
        "length": f"{summary.images} images, {summary.epochs:.1f} epochs",
        "metric": f"{summary.metric} of {config.eval.samples} images every {config.eval.every_kimg:g} kimg",
        "placement": f"{workers if fewest == workers else f'{fewest} to {workers}'} workers of "
        f"{scale.cpus_per_worker:g} CPUs and {scale.gpus_per_worker:g} GPUs, "
        f"{config.train.batch_size // workers} images each a batch",
    }


def train_run(config: RunConfig, arguments: list[str]) -> dict[str, object]:
    """Train a run, print its result and the command that continues it, and return what `--json` prints.

    The paths in `config` are absolute; `arguments` are those of `gan-dist train` that continue the run.
    """
    from gan_dist.artifacts.trackers import Trackers
    from gan_dist.artifacts.trackers.checks import require_trackers
    from gan_dist.config import flatten
    from gan_dist.training.preflight import prepare
    from gan_dist.training.progress import ProgressLine

    require_trackers(config.log.to, print_warning)
    started = False
    try:
        with ProgressLine(config.log.every_s) as line:
            line.status("loading")
            result = prepare(config, note=line.print)
            if result is None:
                from gan_dist.cluster.train import driver
                from gan_dist.core.storage.lock import folder_lock

                line.status("starting workers")
                with folder_lock(config.run_uri, line.print):
                    started = True
                    to, project = config.log.to, config.log.project
                    with Trackers(to, config.run_uri, config.name, project, line.warn) as trackers:
                        trackers.update("", "running", uri=config.run_uri, settings=flatten(config))
                        result = driver.run(config, _status_printer(line))
                        trackers.update("", "finished" if result.finished else "interrupted")
    except GanDistError as error:
        if not started or not (error.external or isinstance(error, WorkerError)):
            raise
        raise extended(error, f"continue it with\n  {command('train', *arguments)}") from error
    except KeyboardInterrupt:
        again = command("train", *arguments)
        typer.echo(f"ended at once, since its last checkpoint; continue it with\n  {again}", err=True)
        raise typer.Exit(INTERRUPTED) from None
    if result.finished:
        _write_report(config.run_uri)
    record = _record(config.run_uri, result)
    _print_result(config.name, result, record, config.log.to)
    if config.profile.steps:
        _print_profile(config.run_uri)
    if result.ended_by is not None:
        typer.echo(f"ended early: {_END_REASONS[result.ended_by].format(config.eval)}")
        arguments = [*without(result.ended_by, arguments), f"{result.ended_by}=null"]
    elif result.finished:
        arguments = [*without("train.kimg", arguments), f"train.kimg={2 * config.train.kimg:g}"]
    typer.echo(f"continue it with\n  {command('train', *arguments)}")
    return record


def _status_printer(line: ProgressLine) -> Callable[[RunStatus], None]:
    """Return a function that shows the workers' progress and new warnings on a line."""
    printed = 0

    def show(status: RunStatus) -> None:
        nonlocal printed
        if status.stopping:
            line.print("stopping" if status.progress is None else "stopping: the run writes a checkpoint")
        for warning in status.warnings[printed:]:
            line.print(f"warning: {warning}")
        printed = len(status.warnings)
        if status.progress is None:
            line.restart()
        else:
            line.update(status.progress)

    return show


def _print_profile(run_uri: str) -> None:
    from gan_dist.core import storage
    from gan_dist.training.profile import FOLDER, TABLE

    if storage.exists(table := storage.join(run_uri, FOLDER, TABLE)):
        typer.echo(f"  profile     {shorten(storage.join(run_uri, FOLDER))}\n{storage.read_text(table)}")


def without(key: str, arguments: list[str]) -> list[str]:
    """Return the arguments that do not set a key."""
    return [argument for argument in arguments if not argument.startswith(f"{key}=")]


def _write_report(run_uri: str) -> None:
    """Write the page of a run into its folder if that is on this machine's disk; it takes a second."""
    if "://" in run_uri:
        return
    from gan_dist.core import storage
    from gan_dist.report.page import write_report

    try:
        write_report(run_uri, storage.join(run_uri, REPORT))
    except GanDistError as error:
        typer.echo(f"note: {REPORT} was not written: {error}", err=True)


def _record(run_uri: str, result: RunResult) -> dict[str, object]:
    from gan_dist.core import storage
    from gan_dist.core.storage.hashed_folder import checkpoint_names
    from gan_dist.models import release
    from gan_dist.report.series import last_finite, read_sorted

    best = release.read_best(run_uri) if storage.exists(storage.join(run_uri, release.BEST)) else None
    checkpoints = checkpoint_names(run_uri)
    return {
        "run": run_uri,
        "kimg": result.images / 1000,
        "finished": result.finished,
        "ended_by": result.ended_by,
        "images_per_second": result.images_per_second,
        "metric": best and best["metric"],
        "value": result.value,
        "best": best and {**best, "release": storage.join(run_uri, str(best["release"]))},
        "halves": last_finite(read_sorted(run_uri)[0], "halves"),
        "checkpoint": storage.join(run_uri, checkpoints[0]) if checkpoints else None,
        "report": page if storage.exists(page := storage.join(run_uri, REPORT)) else None,
    }


def _print_result(name: str, result: RunResult, record: dict[str, object], trackers: Sequence[str]) -> None:
    from gan_dist.core import storage

    run_uri = str(record["run"])
    run = shorten(run_uri)
    state = "finished at" if result.finished else "stopped at"
    speed = f", {result.images_per_second:,.0f} images/s" if result.images_per_second else ""
    typer.echo(f"{name} {state} {result.images / 1000:g} kimg{speed}")
    best = record["best"]
    if isinstance(best, dict):
        kimg = best["images"] / 1000
        halves = f"; two halves of the real images: {record['halves']:.3f}" if record["halves"] else ""
        typer.echo(f"  {best['metric']} {best['value']:.3f} at its best, after {kimg:g} kimg{halves}")
        typer.echo(f"  best        {shorten(best['release'])}")
    if storage.exists(storage.join(run_uri, "samples")):
        typer.echo(f"  samples     {run}/samples")
    board = ", or: " + shlex.join(["tensorboard", "--logdir", f"{run}/tensorboard"])
    typer.echo(f"  metrics     {run}/metrics.jsonl{board if 'tensorboard' in trackers else ''}")
    page = record["report"]
    typer.echo(f"  report      {shorten(str(page)) if page else command('report', run)}")
    if record["checkpoint"]:
        typer.echo(f"  checkpoint  {shorten(str(record['checkpoint']))}")
