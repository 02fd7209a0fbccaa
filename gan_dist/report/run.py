"""The report of a run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence

from gan_dist.artifacts.best import BestRelease, find_best, split_uri
from gan_dist.artifacts.records import distance_name
from gan_dist.config import flatten, load_config
from gan_dist.config.fields import override
from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError
from gan_dist.core.storage import lock
from gan_dist.models.release import CONFIG
from gan_dist.report.blocks import Block, Commands, Facts, Note, Page, Pictures, Section, kimg, number
from gan_dist.report.charts import curves
from gan_dist.report.pictures import embed, grids
from gan_dist.report.series import Record, constants, finite, groups, read_sorted, speed
from gan_dist.report.settings import settings
from gan_dist.training.checkpoint import read_history
from gan_dist.training.preflight import total_images

Rows = Iterator[tuple[str, str]]


def run_page(uri: str) -> Page:
    """Return the report of a run, which may have few or no records yet.

    Raises:
        ConfigError: this version cannot read its configuration.
        StorageError: a file of the run cannot be read.
    """
    config = load_config(storage.join(uri, CONFIG))
    records, damaged = read_sorted(uri)
    best = _lowest(records)
    found, reason = find_release(uri)
    values, end = flatten(config), read_history(uri).ended_by(config.eval, config.ema)
    scale = config.scale
    workers = f"{scale.workers} workers of {scale.cpus_per_worker:g} CPUs and {scale.gpus_per_worker:g} GPUs"
    facts = [
        *_state(uri, total_images(config.train, config.optim), end and f"{end}={values[end]:g}", records),
        *_measured(records, best),
        ("images", storage.redact(config.data.path)),
        ("networks", f"{config.model.name}, latents of {config.model.latent_dim} numbers"),
        ("loss", config.loss.name),
        ("asked for", f"{workers}, batches of {config.train.batch_size} over all"),
        *constants(records),
    ]
    first: list[Block] = [Facts(facts)]
    if best is None:
        first.append(Note("Nothing was measured yet: there is no evaluation with a finite distance."))
    if damaged:
        first.append(Note(f"{damaged} lines of metrics.jsonl are damaged; they were left out."))
    return Page(
        title=config.name,
        subtitle="a run",
        sections=[
            Section("Run", first),
            Section("Samples", grids(uri)),
            Section("Curves", _charts(records, best)),
            Section("Best release", release_blocks(found, reason)),
            *settings(values),
            Section("Go on", [Commands(list(_commands(uri, config.name, config.train.kimg, found)))]),
        ],
    )


def find_release(uri: str) -> tuple[BestRelease | None, str]:
    """Return the best release of a run or search, or None and the reason."""
    try:
        return find_best(uri), ""
    except CheckpointError as error:
        return None, str(error)


def release_blocks(found: BestRelease | None, reason: str) -> list[Block]:
    """Return the picture and the scores of a best release, or the reason why there is none."""
    if found is None:
        return [Note(reason)]
    rows = [("folder", storage.redact(found.release))]
    for key, value in found.record.items():
        rows.append((key, str(value) if finite(value) is None else number(value)))
    caption = f"{found.metric} {number(found.value)} after {kimg(found.images)}"
    picture = embed(found.contents["samples.png"], caption)
    unreadable = Note("Its samples.png cannot be read as a picture.")
    shown = Pictures([picture], large=True) if picture else unreadable
    return [shown, Facts(rows), *map(Note, found.warnings)]


def release_commands(uri: str, name: str) -> Rows:
    """Yield the commands that copy and use the best release of a run or search."""
    source, release = storage.redact(uri), f"releases/{name}"
    yield "take the best as a release", shlex.join(["gan-dist", "best", source, "--to", release])
    yield "draw its samples", shlex.join(["gan-dist", "sample", release, "--n", "64", "--out", "grid.png"])
    yield "measure it again", shlex.join(["gan-dist", "evaluate", release])


def _lowest(records: Sequence[Record]) -> Record | None:
    metric = distance_name(records) or ""
    measured = [record for record in records if finite(record.get(metric)) is not None]
    return min(measured, key=lambda record: float(record[metric]), default=None)


def _state(uri: str, total: int, ended_by: str | None, records: Sequence[Record]) -> Rows:
    images = records[-1]["images"] if records else 0
    yield "folder", storage.redact(uri)
    yield "length", f"{kimg(images)} of {kimg(total)} recorded ({min(1, images / total):.0%})"
    if images >= total:
        yield "state", "finished: it reached train.kimg"
    elif ended_by:
        yield "state", f"finished: ended early by {ended_by}"
    elif holder := lock.lock_holder(uri):
        yield "state", f"not finished; {holder}"
    else:
        yield "state", "not finished, and nobody works on it: interrupted"
    if times := [str(record["time"]) for record in records if record.get("time")]:
        yield "recorded", f"from {times[0]} to {times[-1]}"


def _measured(records: Sequence[Record], best: Record | None) -> Rows:
    metric = distance_name(records)
    if best is not None and metric is not None:
        yield f"best {metric}", f"{number(best[metric])} after {kimg(best['images'])} (lower is better)"
    if last := speed(records):
        yield "speed", f"{last:,.0f} images/s, evaluations left out"


def _charts(records: Sequence[Record], best: Record | None) -> list[Block]:
    if not records:
        return [Note("Nothing was recorded yet.")]
    metric = distance_name(records) or ""
    mark = (best["images"] / 1000, float(best[metric])) if best else None
    return [
        curves(group.title, group.unit, group.series, best=mark if metric in group.series else None)
        for group in groups(records)
    ]


def _commands(uri: str, name: str, length: float, found: BestRelease | None) -> Rows:
    parent, folder = split_uri(uri)
    source = storage.redact(storage.join(uri, CONFIG))
    command = ["gan-dist", "train", source, override("storage", storage.redact(parent))]
    # A copied run continues in its own folder.
    command += [override("name", folder)] if folder != name else []
    yield "continue it", shlex.join(command)
    yield "continue it for longer", shlex.join([*command, f"train.kimg={2 * length:g}"])
    if found is not None:
        yield from release_commands(uri, found.name)
