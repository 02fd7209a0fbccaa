"""The verb `evaluate`: parse, call, print."""

from __future__ import annotations

import json
import math
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Annotated

import typer

from gan_dist.cli.options import AsJson, Backend, ReleaseSource, Trust, with_backend
from gan_dist.cli.paths import NO_FID, absolute, require_png, shorten
from gan_dist.core.errors import DataError
from gan_dist.core.interrupts import INTERRUPTED

if TYPE_CHECKING:
    from gan_dist.config import ScaleConfig
    from gan_dist.evaluation.assess import Assessment
    from gan_dist.evaluation.tasks import Request

METRICS = ("fid", "kid", "is", "pr", "dc", "memorisation")


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise typer.BadParameter(f"{value} is not a finite number.")
    return value


def evaluate(
    source: ReleaseSource,
    data: Annotated[
        str | None,
        typer.Option(help="The set to compare with; what the generator was trained on when absent."),
    ] = None,
    metrics: Annotated[
        str, typer.Option(help="Some of fid, kid, is, pr, dc, memorisation; fid is always measured.")
    ] = "fid",
    samples: Annotated[int, typer.Option(min=2, help="Generated images in a repeat.")] = 50_000,
    repeats: Annotated[int, typer.Option(min=1, help="Sets of latents; the spread is over these.")] = 1,
    extractor: Annotated[
        str | None,
        typer.Option(help="inception, digits, random, auto or package.module:Class; the run's when absent."),
    ] = None,
    inception_weights: Annotated[
        str | None,
        typer.Option(help="File or URI of inception's weights; or set GAN_DIST_INCEPTION_WEIGHTS."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed of the latents.")] = 1,
    out: Annotated[
        str, typer.Option(help="With memorisation: the PNG of generated images beside the nearest real ones.")
    ] = "nearest.png",
    workers: Annotated[int, typer.Option(min=1, help="Processes on the cluster.")] = 1,
    cpus_per_worker: Annotated[
        float, typer.Option(min=0.01, callback=_finite, help="CPUs that each reserves.")
    ] = 1.0,
    gpus_per_worker: Annotated[
        float, typer.Option(min=0, callback=_finite, help="GPUs that each reserves.")
    ] = 0.0,
    trust: Trust = None,
    backend: Backend = "pyarrow",  # noqa: ARG001  # set by its callback
    as_json: AsJson = False,
) -> None:
    """Measure a generator: FID, and what else --metrics names.

    That is KID, Inception Score, precision and recall, density and coverage, copying.
    """
    check(metrics, out)
    chosen = _parse_metrics(metrics)
    from gan_dist.config import ScaleConfig
    from gan_dist.core import storage
    from gan_dist.core.images import write_png
    from gan_dist.core.import_path import require_trust
    from gan_dist.core.storage import hub
    from gan_dist.evaluation.tasks import Request
    from gan_dist.models import release

    if "memorisation" in chosen:
        storage.require_writable(absolute(out))
    source = hub.pinned(absolute(source))  # workers would find what is newest
    config = release.load(source, trust=trust or ()).config
    if not extractor:
        require_trust({"eval.extractor": config.eval.extractor}, trust or (), source)
    weights = inception_weights or config.eval.inception_weights
    request = Request(
        source=source,
        data=absolute(data or config.data.path),
        metrics=chosen,
        samples=samples,
        repeats=repeats,
        extractor=_extractor(extractor or config.eval.extractor, absolute(data or config.data.path), weights),
        inception_weights=weights and absolute(weights),
        seed=seed,
        storage=with_backend(config.storage.options),
        trust=tuple(trust or ()),
    )
    scale = ScaleConfig(workers=workers, cpus_per_worker=cpus_per_worker, gpus_per_worker=gpus_per_worker)
    found = _measure(request, scale)
    for name, value in found.figures.items():
        typer.echo(f"{name}: {value:.6g}" if isinstance(value, float) else f"{name}: {value}")
    if found.nearest is not None:
        write_png(absolute(out), found.nearest)
        out = shorten(absolute(out))
        typer.echo(f"the generated images nearest to a training image, each beside it, are in {out}")
    if as_json:
        picture = {} if found.nearest is None else {"nearest": out}
        typer.echo(json.dumps({**found.figures, **picture}))


def _extractor(name: str, data: str, weights: str | None) -> str:
    from gan_dist.config.machine import AUTO, choose_extractor

    if name == AUTO:
        one_node = "RAY_ADDRESS" not in os.environ
        name = choose_extractor(data, bool(weights), one_node=one_node)
        if name == "random":
            typer.echo(NO_FID, err=True)
    return name


def check(metrics: str, out: str) -> None:
    """Refuse unknown metrics, and a picture that is not called PNG."""
    _parse_metrics(metrics)
    require_png(out)


def _parse_metrics(metrics: str) -> tuple[str, ...]:
    """Return the metrics in a comma-separated list, without `fid`."""
    names = [name.strip() for name in metrics.split(",") if name.strip()]
    unknown = [name for name in names if name not in METRICS]
    if unknown:
        raise DataError(f"--metrics {metrics}: {', '.join(unknown)} is not one of {', '.join(METRICS)}")
    return tuple(name for name in METRICS[1:] if name in names)


def _measure(request: Request, scale: ScaleConfig) -> Assessment:
    """Measure in this process if one is enough, otherwise on the cluster, and show the progress."""
    from gan_dist.core.console import CountProgress
    from gan_dist.evaluation.assess import assess
    from gan_dist.evaluation.tasks import TaskRunner, run_here

    with CountProgress(0, "images") as progress, ExitStack() as connected:
        if scale.workers == 1 and "RAY_ADDRESS" not in os.environ:
            if scale.cpus_per_worker > 1 or scale.gpus_per_worker:
                from gan_dist.cluster.nodes.resources import local_node, require_capacity  # brings Ray

                require_capacity(scale, [local_node()], "this machine", evaluating=True)
            run_tasks: TaskRunner = run_here
        else:
            progress.print("starting workers")
            from gan_dist.cluster.connect import connect_for
            from gan_dist.cluster.evaluation_pool import ray_workers

            connected.enter_context(connect_for(scale, evaluating=True))
            run_tasks = connected.enter_context(ray_workers(scale))
        try:
            found = assess(request, run_tasks, progress.update)
        except KeyboardInterrupt:
            typer.echo("stopped; what was computed of the set is kept", err=True)
            raise typer.Exit(INTERRUPTED) from None
        for warning in found.warnings:
            progress.print(f"warning: {warning}")
    return found
