"""The best checkpoint of a search or of a run, found by what was recorded. No Ray.

Nothing is asked but the folders of the search and of its trials' runs: neither a study nor a cluster need be
there any more.
"""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from gan_dist.artifacts.records import METRICS, format_lines, read_valid_records
from gan_dist.artifacts.search_folder import READERS, Mode, goal, is_search, read_replicated, trial_folders
from gan_dist.config import RunConfig, load_config
from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError, ConfigError
from gan_dist.core.storage.hashed_folder import MANIFEST, read_folder
from gan_dist.core.storage.redaction import split_query
from gan_dist.models.release import (
    BEST,
    CONFIG,
    MEASURED,
    SAMPLES,
    SEARCH,
    SHAPE,
    WEIGHTS,
    best_name,
    read_best,
)

_FIGURE = re.compile(r"(fid|fd|kid|is|precision|recall|density|coverage)(_\w+)?|diversity|modes")
_FILES = (WEIGHTS, CONFIG, SHAPE, MEASURED, SAMPLES)


@dataclass(frozen=True)
class BestRelease:
    """The best measurement of which there is a whole release, and that release."""

    source: str
    """Folder of the search or run that was asked."""
    run: str
    """Folder of the run that it is of: a trial's, or `source`."""
    trial: int | None
    """The trial's number; None for a run that is no trial."""
    trials: int
    """How many runs were looked at."""
    metric: str
    mode: Mode
    """Whether the lowest or the highest value is the best."""
    record: Mapping[str, Any]
    """All that was measured then: the release's `metrics.json`."""
    release: str
    """Folder of the release in the run's."""
    contents: Mapping[str, bytes] = field(repr=False)
    """The release's files, whose hashes have been checked."""
    config: RunConfig = field(repr=False)
    warnings: tuple[str, ...] = ()
    """One sentence for everything better that had to be passed over."""

    @property
    def value(self) -> float:
        """The metric's value."""
        return float(self.record[self.metric])

    @property
    def images(self) -> int:
        """Images seen when it was measured."""
        return int(self.record["images"])

    @property
    def name(self) -> str:
        """Name of the search or run that was asked."""
        return split(self.source)[1]

    @property
    def kept_in(self) -> str:
        """Folder in which that is kept, absolute or a URI."""
        return split(self.source)[0]


def find_best(uri: str) -> BestRelease:
    """Return the best measurement of a search's trials or of a run, and its release.

    Every finite value that was ever recorded counts; of equal ones that after fewer images, then that of the
    lower trial. Where a search has run its best trials again with other seeds, the best mean comes first. A
    run keeps the release of its best measurement only: where that is missing, damaged or another one, the
    next best run's is taken, with a warning.

    Raises:
        CheckpointError: `uri` is neither a search nor a run, what the search says of itself is damaged,
            nothing there was measured by the metric, or no release is whole.
        StorageError: something there cannot be read.
    """
    metric, mode, places = _look(uri)
    with ThreadPoolExecutor(READERS) as pool:
        runs = list(pool.map(_read_run, places))
    metric = metric or distance(record for run in runs for record in run.records)
    candidates = [best for run in runs if metric and (best := _best_of(run, metric, mode))]
    if metric is None or not candidates:
        raise CheckpointError(_nothing_measured(uri, runs, metric))
    warnings = [run.warning for run in runs if run.warning]
    passed_over: list[str] = []
    named = {one.trial: place for place, one in enumerate(read_replicated(uri))}
    for candidate in sorted(candidates, key=lambda one: (named.get(one.trial, len(named)), one)):
        try:
            contents, config = _whole_release(candidate, metric)
        except (CheckpointError, ConfigError) as error:
            passed_over.append(f"{candidate.told(metric)} is passed over: {error}")
            continue
        return BestRelease(
            source=uri,
            run=candidate.run.uri,
            trial=candidate.run.trial,
            trials=len(runs),
            metric=metric,
            mode=mode,
            record=json.loads(contents[MEASURED]),
            release=candidate.release,
            contents=contents,
            config=config,
            warnings=(*warnings, *passed_over),
        )
    more = f"; and {len(passed_over) - 3} more" if len(passed_over) > 3 else ""
    raise CheckpointError(
        f"{storage.redact(uri)} has no release that is whole: {'; '.join(passed_over[:3])}{more}. Restore "
        "its "
        "files, or use a checkpoint of the run, which can be sampled and loaded too"
    )


@dataclass(frozen=True)
class _Run:
    """A run's measurements."""

    uri: str
    trial: int | None
    records: Sequence[Mapping[str, Any]]
    warning: str | None = None


class _Candidate(NamedTuple):
    """A run's best measurement; the least is the best."""

    rank: float
    images: int
    trial: int
    value: float
    run: _Run

    @property
    def release(self) -> str:
        """Where the run keeps the release of a measurement that was its best."""
        return storage.join(self.run.uri, best_name(self.images))

    def told(self, metric: str) -> str:
        """Return it in words."""
        run = storage.redact(self.run.uri) if self.run.trial is None else f"trial {self.run.trial:05d}"
        return f"{metric} {self.value:.6g} of {run} after {self.images / 1000:g} kimg"


def is_figure(key: str) -> bool:
    """Tell whether a key of a run's records is the name of something measured."""
    return _FIGURE.fullmatch(key) is not None


def distance(records: Iterable[Mapping[str, Any]]) -> str | None:
    """Return the name of the distance that runs with these records keep their best release by."""
    keys = (key for record in records for key in record)
    return next((key for key in keys if key == "fid" or key.startswith("fd_")), None)


def _look(uri: str) -> tuple[str | None, Mode, list[tuple[str, int | None]]]:
    """Return the metric where it is said, which end of it is the best, and the runs with their numbers.

    Raises:
        CheckpointError: `uri` is neither a search nor a run.
    """
    return (*goal(uri), trial_folders(uri)) if is_search(uri) else (None, "min", [(uri, None)])


def _read_run(place: tuple[str, int | None]) -> _Run:
    """Return what a run has recorded, and last what `best.json` says.

    A run that was killed after it had put a better release in the old one's place has not recorded it yet.
    """
    uri, trial = place
    there = storage.list_names(uri)
    records, damaged = read_valid_records(uri) if METRICS in there else ([], [])
    warning = None
    if damaged:
        where = f"{storage.redact(uri)}/{METRICS}"
        warning = f"{where} is damaged: what it tells in {format_lines(damaged)} does not count"
    if BEST in there:
        with suppress(CheckpointError):
            best = read_best(uri)
            records = [*records, {"images": best["images"], best["metric"]: best["value"]}]
    return _Run(uri, trial, records, warning)


def _best_of(run: _Run, metric: str, mode: Mode) -> _Candidate | None:
    """Return a run's best measurement; None if it has none that is a finite number."""
    sign = -1 if mode == "max" else 1
    measured = ((record["images"], record.get(metric)) for record in run.records)
    candidates = (
        _Candidate(sign * value, images, run.trial or 0, value, run)
        for images, value in measured
        if isinstance(value, int | float) and math.isfinite(value)
    )
    return min(candidates, key=lambda candidate: candidate[:2], default=None)


def _nothing_measured(uri: str, runs: Sequence[_Run], metric: str | None) -> str:
    """Return why there is no best."""
    where, keys = storage.redact(uri), {key for run in runs for record in run.records for key in record}
    if metric in keys:
        return (
            f"{where} has no {metric} that is a finite number, of {len(runs)} runs: training diverged, and "
            f"loss_d and loss_g in {METRICS} tell when"
        )
    if figures := sorted(key for key in keys if is_figure(key)):
        return (
            f"no record of {where} has the metric {metric}; there are {', '.join(figures)}. Correct `metric` "
            f"in its {SEARCH}"
        )
    return f"{where} has no measurement yet; the first comes after eval.every_kimg thousands of images"


def _whole_release(candidate: _Candidate, metric: str) -> tuple[dict[str, bytes], RunConfig]:
    """Return the files of a measurement's release, and its configuration.

    Raises:
        CheckpointError: it is missing, damaged, or of another measurement.
        ConfigError: this version cannot read its configuration.
    """
    uri = candidate.release
    _, contents = read_folder(uri, ["release"])
    if missing := [name for name in _FILES if name not in contents]:
        raise CheckpointError(f"{uri} is not complete: its {MANIFEST} lists no {', '.join(missing)}")
    told = json.loads(contents[MEASURED])
    if (told.get("images"), told.get(metric)) != (candidate.images, candidate.value):
        raise CheckpointError(
            f"{uri} is of another measurement: {metric} {told.get(metric)} after {told.get('images')} images"
        )
    return contents, load_config(storage.join(uri, CONFIG))


def split(uri: str) -> tuple[str, str]:
    """Return the folder that something is in, absolute or a URI, and its name."""
    base, mark, query = split_query(uri)
    base = base.rstrip("/") if "://" in base else os.path.normpath(Path(base).absolute())
    parent, _, name = base.rpartition("/")
    return f"{parent or '/'}{mark}{query}", name
