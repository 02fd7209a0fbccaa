"""The verbs: parse, call, print. Each imports its room only when it is called, so that help comes at once."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import sys
from pathlib import Path, PurePath
from typing import TYPE_CHECKING, Annotated

import typer

from gan_dist import cli_best, cli_doctor, cli_evaluate, cli_pack, cli_submit, cli_tune
from gan_dist.cli_options import Backend
from gan_dist.errors import GanDistError, WorkerError

if TYPE_CHECKING:
    from gan_dist.config import RunConfig
    from gan_dist.progress import Outcome

INTERRUPTED = 130

app = typer.Typer(
    name="gan-dist",
    help="Train GANs on your own images, on a laptop or across a Ray cluster.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Overrides = Annotated[
    list[str] | None, typer.Argument(metavar="[KEY=VALUE]...", help="Settings, e.g. optim.g.lr=1e-4.")
]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object as the last line.")]


@app.callback()
def _verbs() -> None:
    """Keep a verb a verb, however many there are."""


@app.command()
def train(
    config: Annotated[
        str | None, typer.Argument(help="A preset's name, or a YAML file's path or URI.")
    ] = None,
    overrides: Overrides = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show the resolved configuration and sizes; do nothing.")
    ] = False,
    schema: Annotated[bool, typer.Option("--schema", help="Print the configuration's JSON Schema.")] = False,
    as_json: AsJson = False,
) -> None:
    """Train one run; the same command again continues it."""
    from gan_dist.config import config_schema, load_config, preset_names, to_yaml

    if schema:
        typer.echo(json.dumps(config_schema(), indent=2))
        return
    if config is None:
        raise GanDistError(f"give a configuration: one of {', '.join(preset_names())}, or a YAML file")
    resolved = load_config(config, overrides or [])
    resolved = with_absolute_paths(resolved)
    if dry_run:
        from gan_dist.training.summary import summarise

        summary = summarise(resolved)
        typer.echo(
            to_yaml(resolved) + "\n" + "\n".join(f"# {key}: {value}" for key, value in summary.items())
        )
        if as_json:
            typer.echo(json.dumps(summary))
        return
    result = train_and_tell(resolved, [config, *(overrides or [])])
    if as_json:
        typer.echo(json.dumps(result))
    if not result["finished"]:
        raise typer.Exit(INTERRUPTED)


@app.command()
def sample(
    source: Annotated[str, typer.Argument(help="A release, a checkpoint, or a run's folder.")],
    out: Annotated[str, typer.Option(help="The PNG to write.")] = "grid.png",
    n: Annotated[int, typer.Option(min=1, help="Number of images.")] = 64,
    label: Annotated[
        int | None, typer.Option(min=0, help="Class of all images; for a conditional generator.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the latents.")] = 0,
    backend: Backend = "pyarrow",  # noqa: ARG001  # set by its callback
    as_json: AsJson = False,
) -> None:
    """Write a grid of a generator's images."""
    from gan_dist import release, telemetry

    require_png(out)
    images = release.load(absolute(source)).sample(n, seed, None if label is None else [label] * n)
    telemetry.write_png(absolute(out), telemetry.image_grid(images))
    written = short(absolute(out))
    typer.echo(json.dumps({"out": written}) if as_json else f"{n} images of {source} are in {written}")


app.command()(cli_pack.pack)
app.command()(cli_evaluate.evaluate)
app.command()(cli_best.best)
app.command()(cli_tune.tune)
app.command(context_settings={"allow_interspersed_args": False})(cli_submit.submit)
app.command()(cli_doctor.doctor)


@app.command()
def bench(
    name: Annotated[str, typer.Argument(help="stream, pack, step, modes, metrics or search.")],
    quick: Annotated[bool, typer.Option("--quick", help="Small sizes: that it runs, not how fast.")] = False,
    everything: Annotated[
        bool, typer.Option("--all", help="Also what takes long: all losses of modes.")
    ] = False,
    real: Annotated[
        bool, typer.Option("--real", help="search: real runs on the digits, not simulated ones (20 minutes).")
    ] = False,
    out: Annotated[str | None, typer.Option(help="Folder in which to add a line to NAME.jsonl.")] = None,
    as_json: AsJson = False,
) -> None:
    """Run one benchmark: ratios to references that are measured in the same run."""
    from gan_dist.bench import NAMES, record, run

    if name not in NAMES:
        raise GanDistError(f"there is no benchmark {name}; there are {', '.join(NAMES)}")
    figures = run(name, quick=quick, everything=everything, real=real)
    for key, value in figures.items():
        typer.echo(f"{key}: {value:.4g}" if isinstance(value, float) else f"{key}: {value}")
    if out is not None:
        typer.echo(f"recorded in {record.keep(out, figures)}")
    if as_json:
        typer.echo(json.dumps(figures))


def train_and_tell(config: RunConfig, arguments: list[str]) -> dict[str, object]:
    """Train a run, print where it ended and how it is continued, and return that as `--json` shows it.

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


def _train(config: RunConfig) -> Outcome:
    """Check what can be checked without a cluster, then train and show it."""
    from gan_dist.lease import alone
    from gan_dist.progress import ProgressLine
    from gan_dist.training.summary import prepare

    with ProgressLine(config.log.every_s) as line:
        line.status("loading")
        done = prepare(config)
        if done is not None:
            return done
        from gan_dist.cluster import trainer
        from gan_dist.cluster.board import News

        line.status("starting workers")
        warned = 0

        def show(news: News) -> None:
            nonlocal warned
            for sentence in news.warnings[warned:]:
                line.note(f"warning: {sentence}")
            warned = len(news.warnings)
            if news.progress is None:
                line.restart()
            else:
                line.update(news.progress)

        with alone(config.run_uri, line.note):
            return trainer.run(config, show)


def _result(config: RunConfig, outcome: Outcome) -> dict[str, object]:
    from gan_dist import release, storage
    from gan_dist.training.state import checkpoint_names

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


def _print_end(config: RunConfig, outcome: Outcome, result: dict[str, object], arguments: list[str]) -> None:
    from gan_dist import storage

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


def short(uri: str) -> str:
    """Return a path below the working directory as a relative one."""
    return os.path.relpath(uri) if Path(uri).is_relative_to(Path.cwd()) else uri


def program(verb: str) -> list[str]:
    """Return how a user calls this verb again from where they called it."""
    if _submitted():
        if called_as := os.environ.get(cli_submit.CALLED_AS):
            return [*shlex.split(called_as), verb]
        return ["ray", "job", "submit", "--working-dir", ".", "--", "python", f"jobs/{verb}.py"]
    script = Path(sys.argv[0])
    if script.resolve().parent.name == "jobs":
        return ["python", os.path.relpath(script.with_name(f"{verb}.py"))]
    known = shutil.which("gan-dist")
    on_path = known is not None and Path(known).resolve() == script.resolve()
    return ["gan-dist" if on_path else os.path.relpath(script), verb]


def _submitted() -> bool:
    """Tell whether this is the entrypoint of a job that was submitted to a cluster."""
    return "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ


def require_png(out: str) -> None:
    """Refuse the name of a picture that says another format than PNG, which is what is written.

    Raises:
        GanDistError: it does.
    """
    suffix = PurePath(out.partition("?")[0]).suffix
    if suffix.lower() not in ("", ".png"):
        raise GanDistError(f"--out {out}: pictures are written as PNG, not {suffix}; end the name in .png")


def with_absolute_paths(config: RunConfig) -> RunConfig:
    """Return a run's configuration that means the same in workers, which have other working directories."""
    weights = config.eval.inception_weights
    return config.model_copy(
        update={
            "storage": config.storage.model_copy(update={"path": absolute(config.storage.path)}),
            "data": config.data.model_copy(update={"path": absolute(config.data.path)}),
            "eval": config.eval.model_copy(update={"inception_weights": weights and absolute(weights)}),
            "search": None,
        }
    )


def absolute(uri: str) -> str:
    """Return a local path as an absolute one: workers have other working directories.

    A submitted job's working directory is a copy that Ray deletes, so there a relative path means the home.
    """
    if "://" in uri:
        return uri
    return str((Path.home() / "gan-dist" if _submitted() else Path.cwd()) / Path(uri).expanduser())


def main(arguments: list[str] | None = None) -> None:
    """Run the command line; a user's error is one message and exit code 2, without a traceback."""
    try:
        app(arguments)
    except GanDistError as error:
        typer.echo(f"gan-dist: {error}", err=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
