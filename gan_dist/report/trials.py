"""A search's trials as its study has them, or where that is not at hand as their folders do."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import datetime

from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from gan_dist.artifacts.search_folder import READERS, trial_folder, trial_folders
from gan_dist.config import flatten, load_config
from gan_dist.core import storage
from gan_dist.models.release import CONFIG
from gan_dist.report.series import Record, finite, read_legible
from gan_dist.search.study import REASON

COMPLETE, PRUNED, FAILED, RUNNING, UNKNOWN = "complete", "pruned", "failed", "running", "unknown"
STATES = {TrialState.COMPLETE: COMPLETE, TrialState.PRUNED: PRUNED, TrialState.FAIL: FAILED}


@dataclass(frozen=True)
class Trial:
    """One trial."""

    number: int
    state: str
    """`complete`, `pruned`, `failed`, `running` (or interrupted), or `unknown` without a study."""
    reason: str
    """Why it failed; else nothing."""
    values: Mapping[str, object]
    """What it varies, by configuration key."""
    curve: Mapping[int, float]
    """Finite measurements by images seen, in order."""
    images: int
    """Images that it has trained with, as far as it has told."""
    uri: str
    """Its run's folder."""
    rate: float | None
    """Images a second by its last record; None where there is none."""
    ended: datetime | None = None

    @property
    def best(self) -> float:
        """The lowest finite value that it has told, or infinity."""
        return min(self.curve.values(), default=math.inf)


def of_study(study: Study, uri: str, metric: str) -> list[Trial]:
    """Return all trials of a search that were begun, in order.

    Args:
        study: The search's.
        uri: Its folder. Of trials that have not ended this may know more than the study: what was measured as
            they were interrupted.
        metric: Name of what trials are compared by.
    """
    begun = [trial for trial in study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING]
    places = [trial_folder(uri, trial.number) for trial in begun]
    return [_of_study(metric, *one) for one in zip(begun, places, _records(places), strict=True)]


def of_folders(uri: str, metric: str, keys: Sequence[str]) -> list[Trial]:
    """Return the trials of a search that have a folder, in order; how each ended is not known there.

    Args:
        uri: The search's folder.
        metric: Name of what trials are compared by.
        keys: What varies.
    """
    places = trial_folders(uri)
    found = []
    for (place, number), records in zip(places, _records([place for place, _ in places]), strict=True):
        source = storage.join(place, CONFIG)
        config = flatten(load_config(source)) if storage.exists(source) else {}
        values = {key: config[key] for key in keys if key in config}
        images = records[-1]["images"] if records else 0
        found.append(
            Trial(number or 0, UNKNOWN, "", values, _curve(records, metric), images, place, _rate(records))
        )
    return found


def _of_study(metric: str, trial: FrozenTrial, uri: str, records: Sequence[Record]) -> Trial:
    recorded = {} if trial.state.is_finished() else _curve(records, metric)
    told = dict(sorted((recorded | trial.intermediate_values).items()))
    return Trial(
        number=trial.number,
        state=STATES.get(trial.state, RUNNING),
        reason=str(trial.user_attrs.get(REASON, "")),
        values=trial.params,
        curve={images: value for images, value in told.items() if math.isfinite(value)},
        images=max(told, default=0),
        uri=uri,
        rate=_rate(records),
        ended=trial.datetime_complete,
    )


def _records(places: Sequence[str]) -> list[list[Record]]:
    with ThreadPoolExecutor(READERS) as pool:
        return [records for records, _ in pool.map(read_legible, places)]


def _curve(records: Sequence[Record], metric: str) -> dict[int, float]:
    measured = ((record["images"], finite(record.get(metric))) for record in records)
    return {images: value for images, value in measured if value is not None}


def _rate(records: Sequence[Record]) -> float | None:
    rates = [rate for record in records if (rate := finite(record.get("images_per_second")))]
    return rates[-1] if rates else None
