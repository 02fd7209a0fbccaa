"""A search's book: which trials there are, what each has reported and how it ended, kept in an Optuna study.

The study is the only memory. Whoever opens it again after a kill, wherever it came, finds every trial: those
that ended, and those that were running, which are given out first. A trial is a run in a folder of its own,
so that it goes on from its checkpoint by itself. A trial and all its values are created in one write, and a
decision to stop it is stored before it is acted on, so that a restart never decides again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeAlias

import optuna
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from gan_dist.config import SearchConfig
from gan_dist.core import rng
from gan_dist.core.errors import ResumeError
from gan_dist.search.pruners import make_scheduler
from gan_dist.search.samplers import History, pick
from gan_dist.search.space import Space
from gan_dist.search.space.ranges import Value

SPACE, OWNER = "space", "search"
"""Names of a study's attributes: its space, and what it is known by."""
REASON, STOPPED = "reason", "stopped"
"""Names of a trial's attributes: why it failed, and the step at which it was to stop."""
Point: TypeAlias = frozenset[tuple[str, Value]]
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class Task:
    """A trial to run."""

    number: int
    values: Mapping[str, Value]
    """What it varies, by configuration key."""


@dataclass
class _Running:
    """What is known of a trial that has not ended."""

    id: int
    """The storage's name for it."""
    values: Mapping[str, Value]
    curve: dict[int, float] = field(default_factory=dict)
    stopped: int | None = None


class SearchStudy:
    """A study, and the few things that a search does with it. One process at a time may open it.

    Args:
        storage: Where the study is kept.
        name: Its name there.
        space: What is varied.
        search: How.
        grace: Step before which no trial is stopped, in reports' steps.
        length: Step at which a trial is at its end, so that stopping it saves nothing.
        owner: What the search is known by, as `begin` returns it; a study without one becomes this search's.

    Raises:
        ConfigError: points that are not of the space, or a grid that cannot be.
        ResumeError: the study is of another search, of another space, with what differs, or of no search.
    """

    def __init__(
        self,
        storage: BaseStorage,
        name: str,
        space: Space,
        search: SearchConfig,
        grace: int,
        length: float = math.inf,
        owner: Mapping[str, str] | None = None,
    ) -> None:
        self._storage, self._space, self._search, self._length = storage, space, search, length
        self._study = _open(storage, name, space, owner)
        self._id = storage.get_study_id_from_name(name)
        self._scheduler = make_scheduler(search, grace)
        self._history = History(space)
        self._running: dict[int, _Running] = {}
        self._ended: list[int] = []
        known = self.trials()
        for trial in known:
            self._recall(trial)
        self._interrupted = list(self._running)
        self._begun = len(known)
        tried = {_point(trial.params) for trial in known}
        self._listed = [values for point, values in _listed(space, search).items() if point not in tried]

    def next(self) -> Task | None:
        """Return a trial to run, or None when all have been given out."""
        if self._interrupted:
            number = self._interrupted.pop(0)
            return Task(number, self._running[number].values)
        if not self._left:
            return None
        values = self._listed.pop(0) if self._listed else self._picked(self._begun)
        number = self._begin(values)
        return Task(number, values)

    def report(self, number: int, step: int, value: float) -> bool:
        """Note a trial's value at a step; return whether it should stop for being worse than others.

        A step that was noted before a restart stays as it was, and so does what was decided then.
        """
        trial = self._running[number]
        if step in trial.curve:
            return trial.stopped in trial.curve
        stop = self._scheduler.report(number, step, value) and step < self._length
        if stop and trial.stopped is None:
            trial.stopped = step
            self._storage.set_trial_user_attr(trial.id, STOPPED, step)
        self._storage.set_trial_intermediate_value(trial.id, step, float(value))
        trial.curve[step] = float(value)
        return trial.stopped is not None

    def complete(self, number: int) -> None:
        """Note that a trial has run to its end; its value is the best that it reported."""
        best = min(filter(math.isfinite, self._running[number].curve.values()), default=None)
        if best is None:
            self.fail(number, "it ended without a finite measurement")
        else:
            self._end(number, TrialState.COMPLETE, best)

    def prune(self, number: int) -> None:
        """Note that a trial was stopped for being worse than others."""
        self._end(number, TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """Note that a trial failed, and why."""
        self._storage.set_trial_user_attr(self._running[number].id, REASON, reason)
        self._end(number, TrialState.FAIL)

    def trials(self) -> list[FrozenTrial]:
        """Return all trials that were begun, in order."""
        return [
            trial for trial in self._study.get_trials(deepcopy=False) if trial.state != TrialState.WAITING
        ]

    def running(self) -> list[FrozenTrial]:
        """Return the trials that have not ended, in order."""
        return [self._storage.get_trial(self._running[number].id) for number in sorted(self._running)]

    def ended(self, start: int = 0) -> list[FrozenTrial]:
        """Return the trials that have ended, from the one in that place on; new ones come last."""
        return [self._storage.get_trial(trial_id) for trial_id in self._ended[start:]]

    @property
    def unfinished(self) -> int:
        """How many trials are running or have not been given out."""
        return len(self._running) + self._left

    @property
    def _left(self) -> int:
        left = max(0, self._search.trials - self._begun)
        return min(left, len(self._listed)) if self._search.algorithm == "grid" else left

    def _picked(self, number: int) -> dict[str, Value]:
        """Return a sampler's values, which follow from the seed, the number and the study."""
        assert self._search.algorithm != "grid"
        seed = int(rng.bits(1, self._search.seed, "search", number)[0] >> 32)
        return pick(self._search.algorithm, self._space, seed, self._history.shown())

    def _begin(self, values: Mapping[str, Value]) -> int:
        distributions: dict[str, BaseDistribution] = {key: self._space.distributions[key] for key in values}
        trial = create_trial(state=TrialState.RUNNING, params=dict(values), distributions=distributions)
        trial_id = self._storage.create_new_trial(self._id, trial)
        number = self._storage.get_trial_number_from_id(trial_id)
        self._begun += 1
        self._running[number] = _Running(trial_id, values)
        self._history.began(number, values)
        return number

    def _end(self, number: int, state: TrialState, value: float | None = None) -> None:
        self._study.tell(number, value, state=state)
        ended = self._running.pop(number)
        self._forget(number, ended.id, state, ended.curve)

    def _forget(self, number: int, trial_id: int, state: TrialState, curve: Mapping[int, float]) -> None:
        self._ended.append(trial_id)
        self._scheduler.ended(number, complete=state == TrialState.COMPLETE)
        self._history.ended(number, state, list(curve.values()))

    def _recall(self, trial: FrozenTrial) -> None:
        """Note a trial of an earlier process as if it had just happened."""
        values = {key: trial.params[key] for key in self._space.distributions if key in trial.params}
        curve = dict(sorted(trial.intermediate_values.items()))
        self._history.began(trial.number, values)
        for step, value in curve.items():
            self._scheduler.report(trial.number, step, value)
        trial_id = self._storage.get_trial_id_from_study_id_trial_number(self._id, trial.number)
        if trial.state in ENDED:
            self._forget(trial.number, trial_id, trial.state, curve)
            return
        self._running[trial.number] = _Running(trial_id, values, curve, trial.user_attrs.get(STOPPED))


def _open(storage: BaseStorage, name: str, space: Space, owner: Mapping[str, str] | None) -> Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(storage=storage, study_name=name, direction="minimize", load_if_exists=True)
    earlier = study.user_attrs.get(SPACE)
    if earlier is None and not study.get_trials(deepcopy=False):
        study.set_user_attr(SPACE, space.to_json())
    elif earlier is None or study.directions != [StudyDirection.MINIMIZE]:
        raise ResumeError(
            f"the study {name} was not made by a search", "give the search another name (name=...)"
        )
    elif differing := space.differences(Space.from_json(earlier)):
        raise ResumeError(
            f"the search {name} has another space: {'; '.join(differing)}. Give the search another name "
            "(name=...), or the space that it was begun with"
        )
    if owner is not None:
        _require_own(study, owner)
    return study


def _require_own(study: Study, owner: Mapping[str, str]) -> None:
    """Refuse a study of a database that several searches use: theirs of the same name would be mixed."""
    earlier = study.user_attrs.get(OWNER)
    if earlier is None:
        study.set_user_attr(OWNER, dict(owner))
    elif earlier["id"] != owner["id"]:
        raise ResumeError(
            f"the study {study.study_name} in search.optuna_storage is that of another search, begun in "
            f"{earlier['folder']}",
            f"this one is in {owner['folder']}. Give the search another name "
            "(name=...), or, if the other is no longer wanted, delete its study: "
            f"optuna delete-study --study-name {study.study_name} --storage ...",
        )


def _listed(space: Space, search: SearchConfig) -> dict[Point, dict[str, Value]]:
    """Return the values that no sampler picks: the points to begin with, then a grid's in random order."""
    points: list[Mapping[str, Value]] = list(search.points)
    for point in points:
        space.check_point(point)
    if search.algorithm == "grid":
        grid = space.grid()
        points += [grid[place] for place in rng.permutation(len(grid), search.seed, "grid")]
    listed = {}
    for point in points:
        values = space.normal(point)
        listed[_point(values)] = values
    return listed


def _point(values: Mapping[str, Value]) -> Point:
    return frozenset(values.items())
