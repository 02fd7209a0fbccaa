"""The report of a run."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import replace

from gan_dist.artifacts.best import BestRelease, find_best, rank_runs, split_uri
from gan_dist.artifacts.records import distance_name
from gan_dist.config import flatten, load_config
from gan_dist.config.fields import override
from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError
from gan_dist.core.storage import lock
from gan_dist.models.release import CONFIG, SAMPLES
from gan_dist.report.blocks import (
    Block,
    Commands,
    Facts,
    Headline,
    Note,
    Page,
    Picture,
    Pictures,
    Section,
    kimg,
    number,
)
from gan_dist.report.charts import curves
from gan_dist.report.nearest import nearest_training_images
from gan_dist.report.pictures import SMALL, grids, reduce
from gan_dist.report.series import BESIDE, Record, constants, finite, groups, last_finite, read_sorted, speed
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
    values, history = flatten(config), read_history(uri)
    end = history.ended_by(config.eval, config.ema)
    length = total_images(config.train, config.optim)
    state, word, ended = _state(uri, length, end and f"{end}={values[end]:g}", records)
    floor, noise = (last_finite(records, key) for key in BESIDE)
    scale = config.scale
    workers = f"{scale.workers} workers of {scale.cpus_per_worker:g} CPUs and {scale.gpus_per_worker:g} GPUs"
    facts = [
        *state,
        *_measured(records, best),
        ("images", storage.redact(config.data.path)),
        ("networks", f"{config.model.name}, latents of {config.model.latent_dim} numbers"),
        ("loss", config.loss.name),
        ("asked for", f"{workers}, batches of {config.train.batch_size} over all"),
        *constants(records),
    ]
    images = records[-1]["images"] if records else 0
    first: list[Block] = [
        Headline(list(_headline(records, best, length, floor, word)), min(1, images / length))
    ]
    if best is None:
        first.append(Note("Nothing was measured yet: there is no evaluation with a finite distance."))
    if damaged:
        first.append(Note(f"{damaged} lines of metrics.jsonl are damaged; they were left out."))
    beside = nearest_training_images(uri, config.data, _version(records))
    main, rest = _charts(records, best, history.spread if noise is None else noise, floor)
    return Page(
        title=config.name,
        subtitle="a run",
        sections=[
            Section("Run", first),
            Section("Samples", run_grids(uri, records)),
            *([Section("Nearest training images", beside)] if beside else []),
            Section("Curves", main),
            *([Section("More curves", rest, folded=True)] if rest else []),
            Section("Best release", release_blocks(found, reason)),
            Section("Facts", [Facts(facts)]),
            *settings(values),
            Section("Go on", [Commands(list(_commands(uri, config.name, config.train.kimg, found)))]),
        ],
        ended=ended,
    )


def run_grids(uri: str, records: Sequence[Record]) -> list[Block]:
    """Return the sample grids of a run, each with the distance at its time."""
    metric = distance_name(records) or ""
    words = {}
    for record in records:
        if (value := finite(record.get(metric))) is not None:
            words[round(record["images"] / 1000, 3)] = f"{metric} {number(value)}"
    return grids(uri, words, _version(records))


def _version(records: Sequence[Record]) -> str:
    return str(records[0].get("time", "")) if records else ""


_found: dict[str, tuple[tuple[str, float], BestRelease]] = {}
"""The best releases that were read, with their measurements: a live page reads weights, which may be large,
only if they are others."""


def find_release(uri: str) -> tuple[BestRelease | None, str]:
    """Return the best release of a run or search, its weights left out, or None and the reason."""
    try:
        ranking = rank_runs(uri)
        first = (ranking.best[0].release, ranking.best[0].value)
        known, found = _found.get(uri, (None, None))
        if found is None or known != first or ranking.warnings:
            found = find_best(uri, ranking=ranking)
            _found[uri] = first, replace(found, contents={SAMPLES: found.contents[SAMPLES]})
        return found, ""
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
    picture = reduce(found.contents[SAMPLES], SMALL)
    unreadable = Note(f"Its {SAMPLES} cannot be read as a picture.")
    shown = Pictures([Picture(picture, caption)]) if picture else unreadable
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


def _state(
    uri: str, total: int, ended_by: str | None, records: Sequence[Record]
) -> tuple[list[tuple[str, str]], str, bool]:
    """Return facts of a run's state, the state in a word, and whether nothing more will be recorded."""
    images, holder = records[-1]["images"] if records else 0, lock.lock_holder(uri)
    if images >= total:
        word, state = "finished", "finished: it reached train.kimg"
    elif ended_by:
        word, state = "finished", f"finished: ended early by {ended_by}"
    elif holder:
        word, state = "not finished", f"not finished; {holder}"
    else:
        word, state = "interrupted", "not finished, and nobody works on it: interrupted"
    facts = [
        ("folder", storage.redact(uri)),
        ("length", f"{kimg(images)} of {kimg(total)} recorded ({min(1, images / total):.0%})"),
        ("state", state),
    ]
    if times := [str(record["time"]) for record in records if record.get("time")]:
        facts.append(("recorded", f"from {times[0]} to {times[-1]}"))
    return facts, word, holder is None and (images >= total or ended_by is not None)


def _headline(
    records: Sequence[Record], best: Record | None, total: int, floor: float | None, state: str
) -> Iterator[tuple[str, str, str]]:
    metric, images = distance_name(records), records[-1]["images"] if records else 0
    if best is not None and metric is not None:
        real = f"; two halves of the reals: {floor:.2g}" if floor is not None else ""
        yield f"best {metric}", f"{best[metric]:.4g}", f"after {kimg(best['images'])}{real}"
        last = next(record for record in reversed(records) if finite(record.get(metric)) is not None)
        yield f"last {metric}", f"{last[metric]:.4g}", f"after {kimg(last['images'])}"
    yield state, f"{min(1, images / total):.0%}", f"{kimg(images)} of {kimg(total)}"
    if rate := speed(records):
        left = (total - images) / rate / 3600
        words = f"{left:,.2g} hours to the last image, evaluations left out" if left > 0 else ""
        yield "speed", f"{rate:,.0f} images/s", words


def _measured(records: Sequence[Record], best: Record | None) -> Rows:
    metric = distance_name(records)
    if best is not None and metric is not None:
        yield f"best {metric}", f"{number(best[metric])} after {kimg(best['images'])} (lower is better)"
    if last := speed(records):
        yield "speed", f"{last:,.0f} images/s, evaluations left out"


_NOISE = "of what another set of latents changes, which the run has measured."


def _charts(
    records: Sequence[Record], best: Record | None, spread: float | None, floor: float | None
) -> tuple[list[Block], list[Block]]:
    """Return the charts that matter, and the others."""
    spread = finite(spread)
    if not records:
        return [Note("Nothing was recorded yet.")], []
    metric = distance_name(records) or ""
    mark = (best["images"] / 1000, float(best[metric])) if best else None
    main: list[Block] = []
    rest: list[Block] = []
    for group in groups(records):
        title, unit, series = group.title, group.unit, group.series
        if metric in series:
            main.append(curves(title, unit, series, best=mark, spread=spread, floor=floor))
            if spread is not None:
                main.append(Note(f"The band is two standard deviations, {2 * spread:.1%}, {_NOISE}"))
        else:
            (main if group.main else rest).append(curves(title, unit, series))
    return main, rest


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
