"""The folder of a search: `search.json` has its metric and space, `trials/` a run's folder for each trial.

Where the best trials were run again with other seeds, there are `replicates/` with these runs and
`replicates.json` with their values. The other files are the study's.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError

from gan_dist.artifacts.objectives import Mode, Objectives
from gan_dist.artifacts.records import METRICS
from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError, ConfigError
from gan_dist.core.json_text import parse_object
from gan_dist.core.storage.hashed_folder import MANIFEST
from gan_dist.models.release import CONFIG, SEARCH

TRIALS, REPLICATES = "trials", "replicates"
"""Folders of a search's trials, and of its best trials run again: in each a run's folder for each run."""
REPLICATED = "replicates.json"
"""Values of the trials that were run again with other seeds, the best mean first."""
ORIGIN = "promoted.json"
"""In the folder of a run that goes on from a trial's checkpoint: what it goes on from."""
FORMAT = 1
READERS = 32
"""Trials that are read at the same time: a bucket answers each request in tens of milliseconds."""


def is_search(uri: str) -> bool:
    """Return whether a folder is that of a search, not of a run.

    Raises:
        CheckpointError: it is neither.
        StorageError: its bucket does not exist.
    """
    names = storage.list_names(uri)
    if SEARCH in names:
        return True
    if METRICS in names or (CONFIG in names and MANIFEST not in names):
        return False
    storage.require_bucket(uri)
    raise CheckpointError(
        f"{storage.redact(uri)} is neither a search nor a run: it has no {SEARCH} and no {METRICS}",
        "give the folder of one, <storage>/<name>",
    )


def trial_folder(uri: str, number: int) -> str:
    """Return the folder of one of a search's trials."""
    return storage.join(uri, TRIALS, f"{number:05d}")


def trial_folders(uri: str) -> list[tuple[str, int]]:
    """Return the folders of a search's trials, with the trials' numbers.

    A member of a population has one for each of its branches, such as `00003` and `00003-1`.
    """
    folder = storage.join(uri, TRIALS)
    trials = [name for name in storage.list_names(folder) if re.fullmatch(r"\d{5,}(-\d+)?", name)]
    return [(storage.join(folder, name), int(name.partition("-")[0])) for name in trials]


@dataclass(frozen=True)
class SearchInfo:
    """The `search.json` of a search."""

    metric: str
    """Name of the value that trials are compared by."""
    mode: Mode
    """Whether the lowest or the highest value is the best."""
    space: Mapping[str, Any]
    """The space as JSON; empty where it is not recorded."""
    trials: int | None
    """Number of trials that were asked for; None where it is not recorded."""
    id: str = ""
    """Its identity; empty in searches of version 0.1."""
    objectives: Objectives | None = None
    """What trials are compared by, where it is not `metric` alone."""


def read_search(uri: str) -> SearchInfo:
    """Return the `search.json` of a search.

    Raises:
        CheckpointError: it is damaged or of another format.
    """
    file = storage.join(uri, SEARCH)
    try:
        found = parse_object(storage.read_bytes(file))
        version, mode = found["format"], found.get("mode", "min")
        identity = str(found.get("id", ""))
        objectives = Objectives.parse(dict(found.get("objectives", ())))
        info = SearchInfo(
            str(found["metric"]), mode, found.get("space", {}), found.get("trials"), identity, objectives
        )
    except (ValueError, KeyError, TypeError, AttributeError, ConfigError) as error:
        raise CheckpointError(f"{storage.redact(file)} is damaged ({error!r})", "restore it") from None
    if version != FORMAT or mode not in ("min", "max"):
        raise CheckpointError(
            f"{storage.redact(file)} is of format {version} and mode {mode}; this version reads format "
            f"{FORMAT}, min or max",
            "use the gan-dist that made the search",
        )
    return info


@dataclass(frozen=True)
class ReplicatedTrial:
    """Values of a trial with several seeds."""

    trial: int
    values: Annotated[tuple[float, ...], Field(min_length=1)]
    """The trial's own value first."""

    @property
    def mean(self) -> float:
        """Mean of the values, infinite where a run measured nothing."""
        return mean(self.values)

    @property
    def std(self) -> float:
        """Sample standard deviation of the values; NaN for one value or an infinite one."""
        finite = all(math.isfinite(value) for value in self.values)
        return stdev(self.values) if finite and len(self.values) > 1 else math.nan


def read_replicated(uri: str) -> list[ReplicatedTrial]:
    """Return the trials that a search has run again with other seeds, the best mean first.

    Raises:
        CheckpointError: its `replicates.json` is damaged.
    """
    file = storage.join(uri, REPLICATED)
    if not storage.exists(file):
        return []
    try:
        return TypeAdapter(list[ReplicatedTrial]).validate_json(storage.read_bytes(file))
    except ValidationError as error:
        raise CheckpointError(
            f"{storage.redact(file)} is damaged ({error.errors()[0]['msg']})", "restore it, or delete it"
        ) from None
