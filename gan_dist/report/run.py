"""What the page of a run says."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from gan_dist.artifacts.best import BestRelease, distance, find_best, split
from gan_dist.config import RunConfig, load_config
from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError
from gan_dist.core.storage import lock
from gan_dist.models.release import CONFIG
from gan_dist.report.blocks import Block, Commands, Facts, Note, Page, Pictures, Section, kimg, number
from gan_dist.report.charts import curves
from gan_dist.report.pictures import embedded, grids
from gan_dist.report.series import Record, finite, groups, read_legible, settled
from gan_dist.report.settings import settings
from gan_dist.training.loop import total_images


def run_page(uri: str) -> Page:
    """Return the page of a run, which may have recorded little or nothing yet.

    Raises:
        ConfigError: this version cannot read its configuration.
        StorageError: something there cannot be read.
    """
    config = load_config(storage.join(uri, CONFIG))
    records, left_out = read_legible(uri)
    best = _lowest(records)
    found, why = released(uri)
    first: list[Block] = [
        Facts(
            [
                *_state(uri, config, records),
                *_measured(records, best),
                *_made_of(config),
                *settled(records),
            ]
        )
    ]
    if best is None:
        first.append(Note("Nothing was measured yet: there is no evaluation with a finite distance."))
    if left_out:
        first.append(Note(f"{left_out} lines of metrics.jsonl are damaged; they were left out."))
    return Page(
        title=config.name,
        subtitle="a run",
        sections=[
            Section("Run", first),
            Section("Samples", grids(uri)),
            Section("Curves", _charts(records, best)),
            Section("Best release", best_release(found, why)),
            *settings(config),
            Section("Go on", [Commands(list(_commands(uri, config, found)))]),
        ],
    )


def best_release(found: BestRelease | None, why: str) -> list[Block]:
    """Return the picture and figures of a best release, or why there is none."""
    if found is None:
        return [Note(why)]
    said = f"{found.metric} {number(found.value)} after {kimg(found.images)}"
    rows = [("folder", storage.redact(found.release))]
    rows += [
        (key, number(told) if finite(told) is not None else str(told)) for key, told in found.record.items()
    ]
    picture = embedded(found.contents["samples.png"], said)
    warnings = [Note(warning) for warning in found.warnings]
    shown = (
        Pictures([picture], large=True) if picture else Note("Its samples.png cannot be read as a picture.")
    )
    return [shown, Facts(rows), *warnings]


def released(uri: str) -> tuple[BestRelease | None, str]:
    """Return the best release of a run or search, or why there is none."""
    try:
        return find_best(uri), ""
    except CheckpointError as error:
        return None, str(error)


def _lowest(records: Sequence[Record]) -> Record | None:
    """Return the record with the lowest distance, the first of several."""
    metric = distance(records) or ""
    measured = [record for record in records if finite(record.get(metric)) is not None]
    return min(measured, key=lambda record: float(record[metric]), default=None)


def _state(uri: str, config: RunConfig, records: Sequence[Record]) -> Iterator[tuple[str, str]]:
    total, images = total_images(config), records[-1]["images"] if records else 0
    yield "folder", storage.redact(uri)
    yield "length", f"{kimg(images)} of {kimg(total)} recorded ({min(1, images / total):.0%})"
    worker = lock.lock_holder(uri)
    if images >= total:
        yield "state", "finished"
    elif worker:
        yield "state", f"not finished; {worker}"
    else:
        patience = config.eval.patience
        ended = f"ended early by eval.patience={patience}, or " if patience else ""
        yield "state", f"not finished, and nobody works on it: {ended}interrupted"
    if times := [str(record["time"]) for record in records if record.get("time")]:
        yield "recorded", f"from {times[0]} to {times[-1]}"


def _measured(records: Sequence[Record], best: Record | None) -> Iterator[tuple[str, str]]:
    metric = distance(records)
    if best is not None and metric is not None:
        yield f"best {metric}", f"{number(best[metric])} after {kimg(best['images'])} (lower is better)"
    speeds = [speed for record in records if (speed := finite(record.get("images_per_second")))]
    if speeds:
        yield "speed", f"{speeds[-1]:,.0f} images/s, evaluations left out"


def _made_of(config: RunConfig) -> Iterator[tuple[str, str]]:
    scale, train = config.scale, config.train
    yield "images", storage.redact(config.data.path)
    yield "networks", f"{config.model.name}, latents of {config.model.latent_dim} numbers"
    yield "loss", config.loss.name
    placed = f"{scale.cpus_per_worker:g} CPUs and {scale.gpus_per_worker:g} GPUs"
    yield "asked for", f"{scale.workers} workers of {placed}, batches of {train.batch_size} over all"


def _charts(records: Sequence[Record], best: Record | None) -> list[Block]:
    if not records:
        return [Note("Nothing was recorded yet.")]
    metric, clock = distance(records) or "", [record["images"] / 1000 for record in records]
    mark = (best["images"] / 1000, float(best[metric])) if best else None
    return [
        curves(group.title, group.unit, clock, group.series, best=mark if metric in group.series else None)
        for group in groups(records)
    ]


def _commands(uri: str, config: RunConfig, found: BestRelease | None) -> Iterator[tuple[str, str]]:
    parent, name = split(uri)
    longer = f"train.kimg={2 * config.train.kimg:g}"
    source = storage.redact(storage.join(uri, CONFIG))
    go_on = ["gan-dist", "train", source, f"storage={storage.redact(parent)}"]
    # A copy goes on where it lies. A name like 00003 would be a number here; in the configuration it is text.
    go_on += [f"name={name}"] if name != config.name else []
    yield "continue it", shlex.join(go_on)
    yield "continue it for longer", shlex.join([*go_on, longer])
    if found is not None:
        yield from commands_of_best(uri, found.name)


def commands_of_best(uri: str, name: str) -> Iterator[tuple[str, str]]:
    """Yield how the best of a run or search is taken and used."""
    shown, release = storage.redact(uri), f"releases/{name}"
    yield "take the best as a release", shlex.join(["gan-dist", "best", shown, "--to", release])
    yield "draw its samples", shlex.join(["gan-dist", "sample", release, "--n", "64", "--out", "grid.png"])
    yield "measure it again", shlex.join(["gan-dist", "evaluate", release])
