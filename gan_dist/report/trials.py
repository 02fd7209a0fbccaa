"""Trials of a search, read from its study or, without a study, from their folders; and their cost."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import TYPE_CHECKING

from gan_dist.artifacts.objectives import Objectives, Point
from gan_dist.artifacts.search_folder import READERS, trial_folder, trial_folders
from gan_dist.config import OptimConfig, ScaleConfig, TrainConfig, flatten, load_config
from gan_dist.core import storage
from gan_dist.models.release import CONFIG
from gan_dist.report.blocks import kimg
from gan_dist.report.series import Record, finite, read_sorted, speed
from gan_dist.training.preflight import total_images

if TYPE_CHECKING:  # Optuna takes seconds to import, and a run's page has no trials
    from optuna.study import Study
    from optuna.trial import FrozenTrial


class State(StrEnum):
    """State of a trial."""

    COMPLETE = "complete"
    PRUNED = "pruned"
    FAILED = "failed"
    RUNNING = "running"
    """Running, or interrupted."""
    UNKNOWN = "unknown"
    """Without a study."""


ENDED = (State.COMPLETE, State.PRUNED, State.FAILED)

STATES = {"COMPLETE": State.COMPLETE, "PRUNED": State.PRUNED, "FAIL": State.FAILED}
"""By the name of Optuna's state."""


@dataclass(frozen=True)
class Trial:
    """A trial of a search."""

    number: int
    state: State
    reason: str
    """Why it failed; empty otherwise."""
    values: Mapping[str, object]
    """Values of the varied configuration keys."""
    curve: Mapping[int, float]
    """Finite measurements by images seen, in order."""
    images: int
    """Images seen at its last measurement."""
    rate: float | None
    """Images per second in its last record; None if there is none."""
    ended: datetime | None = None
    point: Point | None = None
    """Values of a search's objectives where the distance was lowest."""

    @property
    def best(self) -> float:
        """The lowest finite measurement, or infinity."""
        return min(self.curve.values(), default=math.inf)


def study_trials(study: Study, uri: str, metric: str, objectives: Objectives | None = None) -> list[Trial]:
    """Return the trials of a study that have begun, in order.

    Of trials that have not ended, the search's folder may have later measurements than the study, from the
    moment of an interruption.
    """
    begun = [trial for trial in study.get_trials(deepcopy=False) if trial.state.name != "WAITING"]
    folders = [trial_folder(uri, trial.number) for trial in begun]
    read = zip(begun, _read_all(folders), strict=True)
    return [_with_point(objectives, _study_trial(metric, *one), one[1]) for one in read]


def folder_trials(
    uri: str, metric: str, keys: Sequence[str], objectives: Objectives | None = None
) -> list[Trial]:
    """Return the trials of a search that have a folder, in order; their states are unknown."""
    folders = trial_folders(uri)
    trials = []
    for (folder, number), records in zip(folders, _read_all([one for one, _ in folders]), strict=True):
        source = storage.join(folder, CONFIG)
        config = flatten(load_config(source)) if storage.exists(source) else {}
        values = {key: config[key] for key in keys if key in config}
        images = records[-1]["images"] if records else 0
        curve = _curve(records, metric)
        trial = Trial(number, State.UNKNOWN, "", values, curve, images, speed(records))
        trials.append(_with_point(objectives, trial, records))
    return trials


def _study_trial(metric: str, trial: FrozenTrial, records: Sequence[Record]) -> Trial:
    from gan_dist.search.study import REASON

    recorded = {} if trial.state.is_finished() else _curve(records, metric)
    values = dict(sorted((recorded | trial.intermediate_values).items()))
    return Trial(
        number=trial.number,
        state=STATES.get(trial.state.name, State.RUNNING),
        reason=str(trial.user_attrs.get(REASON, "")),
        values=trial.params,
        curve={images: value for images, value in values.items() if math.isfinite(value)},
        images=max(values, default=0),
        rate=speed(records),
        ended=trial.datetime_complete,
    )


def _with_point(objectives: Objectives | None, trial: Trial, records: Sequence[Record]) -> Trial:
    if objectives is None or not trial.curve:
        return trial
    images = min(trial.curve, key=lambda images: (trial.curve[images], images))
    found = (objectives.point(record) for record in records if record["images"] == images)
    return replace(trial, point=next(filter(None, found), None))


def _read_all(folders: Sequence[str]) -> list[list[Record]]:
    with ThreadPoolExecutor(READERS) as pool:
        return [records for records, _ in pool.map(read_sorted, folders)]


def _curve(records: Sequence[Record], metric: str) -> dict[int, float]:
    measured = ((record["images"], finite(record.get(metric))) for record in records)
    return {images: value for images, value in measured if value is not None}


def cost(
    scale: ScaleConfig, trials: Sequence[Trial], lengths: Mapping[int, int]
) -> Iterator[tuple[str, str]]:
    """Yield the images and hours that the trials took, and those that pruning saved, with the arithmetic.

    `lengths` has the result of `full_length` for each trial's number.
    """
    trained = sum(trial.images for trial in trials)
    by_state: Counter[State] = Counter()
    for trial in trials:
        by_state[trial.state] += trial.images
    sums = " + ".join(f"{images / 1000:,.10g} {state}" for state, images in by_state.items())
    yield "trained", kimg(trained) + (f" = {sums}" if len(by_state) > 1 else "")
    pruned = [trial for trial in trials if trial.state == State.PRUNED]
    if pruned:
        whole, done = sum(lengths[one.number] for one in pruned), sum(one.images for one in pruned)
        saved = whole - done
        yield (
            "saved by stopping early",
            f"{kimg(saved)} = {kimg(whole)} that {len(pruned)} pruned trials would have had to their end - "
            f"{kimg(done)} that they had; {saved / (trained + saved):.0%} of {kimg(trained + saved)} in all",
        )

    # Hours of the hardware that trials reserve, without evaluations and waiting.
    each, unit = (scale.gpus_per_worker, "GPU") if scale.gpus_per_worker else (scale.cpus_per_worker, "CPU")
    timed = [(trial, trial.rate) for trial in trials if trial.rate]
    if not timed:
        return
    hours = sum(trial.images / rate for trial, rate in timed) / 3600
    text = f"{scale.workers * each * hours:.3g} {unit}-hours = {hours:.3g} hours of training x "
    text += f"{scale.workers} workers x {each:g} {unit}s; a trial's hours are its images over its images/s, "
    text += "evaluations left out"
    if len(timed) < len(trials):
        text += f"; of the {len(timed)} trials that have recorded their speed"
    yield f"{unit}-hours", text
    left = [(lengths[one.number] - one.images) / rate for one, rate in timed if one.state == State.PRUNED]
    if left:
        yield f"{unit}-hours saved", f"{scale.workers * each * sum(left) / 3600:.3g}, reckoned likewise"


def full_length(train: TrainConfig, optim: OptimConfig, values: Mapping[str, object]) -> int:
    """Return the images of a trial that is not stopped early; its values may change its length."""
    varied = {key: values[f"train.{key}"] for key in ("kimg", "batch_size") if f"train.{key}" in values}
    d_steps = {"d_steps": values["optim.d_steps"]} if "optim.d_steps" in values else {}
    return total_images(train.model_copy(update=varied), optim.model_copy(update=d_steps))
