"""The best release of a search or of a run, by the records in their folders: without a study, without Ray."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gan_dist.artifacts.objectives import Mode, Objectives, Point, require_objective
from gan_dist.artifacts.records import METRICS, distance_name, format_lines, is_score, read_valid_records
from gan_dist.artifacts.search_folder import (
    ORIGIN,
    READERS,
    is_search,
    read_replicated,
    read_search,
    trial_folders,
)
from gan_dist.config import RunConfig, load_config
from gan_dist.core import storage
from gan_dist.core.errors import AbsentError, CheckpointError, ConfigError
from gan_dist.core.json_text import parse_object
from gan_dist.core.storage.hashed_folder import MANIFEST, parse_file, read_folder
from gan_dist.core.storage.redaction import split_query
from gan_dist.models.release import BEST, CONFIG, FILES, MEASURED, SEARCH, best_name, read_best


@dataclass(frozen=True)
class BestRelease:
    """The best measurement of a search or run with a complete release, and the files of that release."""

    source: str
    """Folder of the search or run."""
    run: str
    """Folder of the measured run: a trial's, or `source`."""
    trial: int | None
    """Number of the trial; None for a run outside a search."""
    trials: int
    """Number of runs that were compared."""
    metric: str
    mode: Mode
    """Whether the lowest or the highest value is the best."""
    record: Mapping[str, Any]
    """The release's `metrics.json`: all scores of the measurement."""
    release: str
    """Folder of the release."""
    contents: Mapping[str, bytes] = field(repr=False)
    """Content of the release's files by name; their hashes have been checked."""
    config: RunConfig = field(repr=False)
    warnings: tuple[str, ...] = ()
    """A sentence for each better measurement whose release is missing or damaged."""
    point: Point | None = None
    """Values of all objectives of a search with several."""

    @property
    def value(self) -> float:
        return float(self.record[self.metric])

    @property
    def images(self) -> int:
        return int(self.record["images"])

    @property
    def name(self) -> str:
        """Name of the search or run."""
        return split_uri(self.source)[1]

    @property
    def parent(self) -> str:
        """Folder of the search's or run's folder, an absolute path or a URI."""
        return split_uri(self.source)[0]


@dataclass(frozen=True)
class Ranking:
    """The runs of a search by their best measurements, or a single run."""

    metric: str
    mode: Mode
    trials: int
    """Number of runs that were compared, those without a measurement included."""
    best: Sequence[BestMeasurement]
    """The best measurement of each run that has one, the best run first."""
    warnings: tuple[str, ...]
    """A sentence for each run whose records are damaged."""


def rank_runs(uri: str, prefer: str | None = None) -> Ranking:
    """Return the order of a search's trials, or a run, by the best that each has measured.

    Every finite value in the records counts. Of equal values the one after fewer images is better, then the
    one of the lower trial. Where a search has run its best trials again with other seeds, the best mean comes
    first. In a search with several objectives those on the front come first, in the order of the objective
    `prefer`, by default the first; a trial counts with what it measured where its distance was lowest.

    Raises:
        CheckpointError: `uri` is neither a search nor a run, the search's `search.json` is damaged, or there
            is no measurement by the metric.
        GanDistError: `prefer` is none of its objectives.
        StorageError: a file cannot be read.
    """
    search = read_search(uri) if is_search(uri) else None
    objectives = search.objectives if search else None
    require_objective(prefer, objectives)
    metric = search.metric if search else None
    mode: Mode = search.mode if search else "min"
    folders: list[tuple[str, int | None]] = [*trial_folders(uri)] if search else [(uri, None)]
    with ThreadPoolExecutor(READERS) as pool:
        runs = list(pool.map(lambda run: _read_run(*run), folders))
    metric = metric or distance_name(record for run in runs for record in run.records)
    measured = [best for run in runs if metric and (best := _best_of(run, metric, mode))]
    if metric is None or not measured:
        raise _nothing_measured(uri, runs, metric)
    ranks = {one.trial: rank for rank, one in enumerate(read_replicated(uri))}
    measured.sort(key=lambda one: (ranks.get(one.trial, len(ranks)), one[:3], one.run.uri))
    # Of a member of a population, which has a run for each of its branches, the best one.
    leading = {one.trial: one for one in reversed(measured)}
    measured = [one for one in measured if leading[one.trial] is one]
    warnings = tuple(run.warning for run in runs if run.warning)
    count = len({run.trial for run in runs})
    if objectives is None:
        return Ranking(metric, mode, count, measured, warnings)
    name = prefer or objectives.first
    measured, unmet = _by_objectives(measured, objectives, name)
    return Ranking(name, objectives.modes[name], count, measured, (*warnings, *unmet))


def _by_objectives(
    measured: Sequence[BestMeasurement], objectives: Objectives, name: str
) -> tuple[list[BestMeasurement], list[str]]:
    """Return measurements in order, with their values of the objective `name`; and what to warn of."""
    known: list[tuple[BestMeasurement, Point]] = []
    for one in sorted(measured, key=lambda one: one.trial):
        records = [record for record in one.run.records if record["images"] == one.images]
        if point := next((point for record in records if (point := objectives.point(record))), None):
            known.append((one, point))
    if not known:
        names = ", ".join(objectives.names)
        raise CheckpointError(f"no trial has finite values of {names} where its distance was lowest")
    front, others = objectives.order([point for _, point in known], name)
    unmet = [] if front else [f"no trial has {objectives.describe_bounds()}; the nearest comes first"]
    ordered = [known[at] for at in [*front, *others]]
    return [one._replace(value=point[name], point=point) for one, point in ordered], unmet


def find_best(uri: str, prefer: str | None = None, ranking: Ranking | None = None) -> BestRelease:
    """Return the best measurement of a search's trials or of a run, in the order of `rank_runs`.

    A run has the release of its best measurement only: where that is missing, damaged or of another
    measurement, the next best run is taken, with a warning.

    Raises:
        CheckpointError: `rank_runs` raises it, or there is no complete release.
        StorageError: a file cannot be read.
    """
    passed_over: list[str] = []
    for found in find_releases(uri, ranking or rank_runs(uri, prefer), passed_over):
        return found
    more = f"; and {len(passed_over) - 3} more" if len(passed_over) > 3 else ""
    raise CheckpointError(
        f"{storage.redact(uri)} has no release that is whole: {'; '.join(passed_over[:3])}{more}",
        "restore its files, or use a checkpoint of the run, which can be sampled and loaded too",
    )


def find_releases(uri: str, ranking: Ranking, passed_over: list[str]) -> Iterator[BestRelease]:
    """Yield the best whole release of each run, in order; a sentence for each other goes to `passed_over`."""
    for measured in ranking.best:
        try:
            contents, config = _read_release(measured, ranking.metric)
        except (CheckpointError, ConfigError) as error:
            passed_over.append(f"{measured.describe(ranking.metric)} is passed over: {error}")
            continue
        yield BestRelease(
            source=uri,
            run=measured.run.uri,
            trial=measured.run.trial,
            trials=ranking.trials,
            metric=ranking.metric,
            mode=ranking.mode,
            record=parse_object(contents[MEASURED]),
            release=measured.release,
            contents=contents,
            config=config,
            warnings=(*ranking.warnings, *passed_over),
            point=measured.point,
        )


@dataclass(frozen=True)
class RecordedRun:
    """A run by what it has recorded."""

    uri: str
    trial: int | None
    records: Sequence[Mapping[str, Any]]
    warning: str | None = None
    best: Mapping[str, Any] = field(default_factory=dict)
    """Its `best.json`; empty where there is none that can be read."""


class BestMeasurement(NamedTuple):
    """The best measurement of a run; the least of several is the best."""

    rank: float
    images: int
    trial: int
    value: float
    run: RecordedRun
    point: Point | None = None

    @property
    def release(self) -> str:
        best = self.run.best
        name = best["release"] if best.get("images") == self.images else best_name(self.images)
        return storage.join(self.run.uri, name)

    def describe(self, metric: str) -> str:
        run = storage.redact(self.run.uri) if self.run.trial is None else f"trial {self.run.trial:05d}"
        return f"{metric} {self.value:.6g} of {run} after {self.images / 1000:g} kimg"


def _read_run(uri: str, trial: int | None) -> RecordedRun:
    names = storage.list_names(uri)
    records, damaged = read_valid_records(uri) if METRICS in names else ([], [])
    warning = None
    if damaged:
        file = f"{storage.redact(uri)}/{METRICS}"
        warning = f"{file} is damaged: what it tells in {format_lines(damaged)} does not count"
    best: dict[str, Any] = {}
    if BEST in names:
        # A run that was killed just after it had replaced its best release has not recorded it yet.
        with suppress(CheckpointError):
            best = read_best(uri)
            records = [*records, {"images": best["images"], best["metric"]: best["value"]}]
    if trial is not None and ORIGIN in names:  # what a member of a population has copied is another's
        with suppress(AbsentError, ValueError, TypeError, KeyError):
            copied = int(parse_object(storage.read_bytes(storage.join(uri, ORIGIN)))["images"])
            records = [record for record in records if record["images"] > copied]
    return RecordedRun(uri, trial, records, warning, best)


def _best_of(run: RecordedRun, metric: str, mode: Mode) -> BestMeasurement | None:
    sign = -1 if mode == "max" else 1
    values = ((record["images"], record.get(metric)) for record in run.records)
    finite = (
        BestMeasurement(sign * value, images, run.trial or 0, value, run)
        for images, value in values
        if isinstance(value, int | float) and math.isfinite(value)
    )
    return min(finite, key=lambda one: one[:2], default=None)


def _nothing_measured(uri: str, runs: Sequence[RecordedRun], metric: str | None) -> CheckpointError:
    where, keys = storage.redact(uri), {key for run in runs for record in run.records for key in record}
    if metric in keys:
        return CheckpointError(
            f"{where} has no {metric} that is a finite number, of {len(runs)} runs: training diverged",
            f"loss_d and loss_g in {METRICS} tell when",
        )
    if scores := sorted(key for key in keys if is_score(key)):
        return CheckpointError(
            f"no record of {where} has the metric {metric}; there are {', '.join(scores)}",
            f"correct `metric` in its {SEARCH}",
        )
    return CheckpointError(
        f"{where} has no measurement yet",
        "the first comes after eval.every_kimg thousands of images",
        keys=("eval.every_kimg",),
    )


def _read_release(best: BestMeasurement, metric: str) -> tuple[dict[str, bytes], RunConfig]:
    uri = best.release
    _, contents = read_folder(uri, ["release"])
    if missing := [name for name in FILES if name not in contents]:
        raise CheckpointError(f"{uri} is not complete: its {MANIFEST} lists no {', '.join(missing)}")
    record = parse_file(uri, contents, MEASURED, parse_object)
    images, value = record.get("images"), record.get(metric)
    if (images, value) != (best.images, best.value):
        raise CheckpointError(f"{uri} is of another measurement: {metric} {value} after {images} images")
    return contents, load_config(storage.join(uri, CONFIG))


def split_uri(uri: str) -> tuple[str, str]:
    """Return the parent folder of a folder, an absolute path or a URI, and the folder's name."""
    base, mark, query = split_query(uri)
    base = base.rstrip("/") if "://" in base else os.path.normpath(Path(base).absolute())
    parent, _, name = base.rpartition("/")
    return f"{parent or '/'}{mark}{query}", name
