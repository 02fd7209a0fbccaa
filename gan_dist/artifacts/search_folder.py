"""The folder of a search: what it compares its trials by, where these are, and which were run again.

It holds `search.json`, which names the metric, a run's folder for each trial under `trials/`, and
`replicates.json` where the best were run again. Whatever else is there is the study's.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Annotated, Literal

from pydantic import Field, TypeAdapter, ValidationError

from gan_dist.artifacts.records import METRICS
from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError
from gan_dist.core.storage.hashed_folder import MANIFEST
from gan_dist.models.release import CONFIG, SEARCH

TRIALS, REPLICATES = "trials", "replicates"
"""Folders in which a search's trials are, and the best of them run again: a run's folder for each."""
REPLICATED = "replicates.json"
"""Trials that were run again with other seeds, the best mean first: these name the winner."""
FORMAT = 1
READERS = 32
"""Trials that are read at a time: a bucket answers each question in tens of milliseconds."""

Mode = Literal["min", "max"]


def is_search(uri: str) -> bool:
    """Tell the folder of a search from that of a run.

    Raises:
        CheckpointError: it is neither.
        StorageError: its bucket does not exist.
    """
    there = storage.list_names(uri)
    if SEARCH in there:
        return True
    if METRICS in there or (CONFIG in there and MANIFEST not in there):
        return False
    storage.require_bucket(uri)
    raise CheckpointError(
        f"{storage.redact(uri)} is neither a search nor a run: it has no {SEARCH} and no {METRICS}",
        "give the folder of one, <storage>/<name>",
    )


def trial_folder(uri: str, number: int) -> str:
    """Return the folder of one of a search's trials."""
    return storage.join(uri, TRIALS, f"{number:05d}")


def trial_folders(uri: str) -> list[tuple[str, int | None]]:
    """Return the folders of a search's trials, with their numbers."""
    folder = storage.join(uri, TRIALS)
    trials = [name for name in storage.list_names(folder) if re.fullmatch(r"\d{5,}", name)]
    return [(storage.join(folder, name), int(name)) for name in trials]


def goal(uri: str) -> tuple[str, Mode]:
    """Return what a search compares its trials by.

    Raises:
        CheckpointError: its `search.json` does not say it, or is of another format.
    """
    where = storage.join(uri, SEARCH)
    try:
        told = json.loads(storage.read_bytes(where))
        metric, mode, version = told["metric"], told.get("mode", "min"), told["format"]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise CheckpointError(f"{storage.redact(where)} is damaged ({error!r})", "restore it") from None
    if version != FORMAT or mode not in ("min", "max"):
        raise CheckpointError(
            f"{storage.redact(where)} is of format {version} and mode {mode}",
            f"this version reads format {FORMAT}, min or max: use the gan-dist that made the search",
        )
    return str(metric), mode


@dataclass(frozen=True)
class Replicated:
    """A trial's value over seeds."""

    trial: int
    values: Annotated[tuple[float, ...], Field(min_length=1)]
    """The trial's own first."""

    @property
    def mean(self) -> float:
        """Their mean, infinite where one of the runs measured nothing."""
        return mean(self.values)

    @property
    def spread(self) -> float:
        """Their sample standard deviation, of which NaN stands for none."""
        finite = all(math.isfinite(value) for value in self.values)
        return stdev(self.values) if finite and len(self.values) > 1 else math.nan


def read_replicated(uri: str) -> list[Replicated]:
    """Return the trials that a search has run again with other seeds, the best mean first.

    Raises:
        CheckpointError: its `replicates.json` is damaged.
    """
    place = storage.join(uri, REPLICATED)
    if not storage.exists(place):
        return []
    try:
        return TypeAdapter(list[Replicated]).validate_json(storage.read_bytes(place))
    except ValidationError as error:
        raise CheckpointError(
            f"{storage.redact(place)} is damaged ({error.errors()[0]['msg']}): restore it, or delete it"
        ) from None
