"""Several objectives in an Optuna study: what trials have measured, rungs by rank, and a TPE that knows them.

Optuna stops no trial of a study with several objectives, and its TPE fails on stopped trials. Here a trial at
a rung goes on if it is among the best of those that have reached the rung, in the order of
`gan_dist.artifacts.objectives`: asynchronous successive halving with a non-dominated sort, as in Schmucker et
al. 2021, https://arxiv.org/abs/2106.12639. All that a decision rests on is stored in the study.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Container, Iterable, Iterator, Sequence
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.samplers import BaseSampler
from optuna.storages import InMemoryStorage
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from gan_dist.artifacts.objectives import Objectives, Point, Standing

DIRECTIONS = {"min": StudyDirection.MINIMIZE, "max": StudyDirection.MAXIMIZE}
_POINT = "point:"
"""Name of a trial's system attribute, before the step: what it measured there, or null."""


def store_point(trial: Trial, step: int, point: Point | None) -> None:
    """Store what a trial has measured; it counts once its distance is there too."""
    stored = None if point is None else dict(point)
    trial.storage.set_trial_system_attr(trial._trial_id, f"{_POINT}{step}", stored)


def points(trial: FrozenTrial) -> dict[int, Point | None]:
    """Return what a trial has measured by images seen, in order; None where a value was not finite."""
    steps = sorted(trial.intermediate_values)
    return {step: trial.system_attrs.get(f"{_POINT}{step}") for step in steps}


def released_point(trial: FrozenTrial) -> Point | None:
    """Return what a trial measured where its distance was lowest: the values of its release."""
    finite = [(at, step) for step, at in trial.intermediate_values.items() if math.isfinite(at)]
    return trial.system_attrs.get(f"{_POINT}{min(finite)[1]}") if finite else None


def lowest_loss(objectives: Objectives, trial: FrozenTrial) -> float:
    """Return the lowest loss in the first objective that a trial has measured within the constraints."""
    found = [point for point in points(trial).values() if point and objectives.violation(point) == 0]
    return min((objectives.loss(objectives.first, point) for point in found), default=math.inf)


def final_values(objectives: Objectives, trial: Trial, frozen: FrozenTrial) -> list[float]:
    """Return the values of a trial that has ended, and store its constraints; nothing where it has none."""
    point = released_point(frozen)
    if point is None:
        return []
    for name in objectives.bounds.keys() - frozen.constraints.keys():
        trial.set_constraint(name, objectives.excess(point)[name])
    return [point[name] for name in objectives.modes]


def front(objectives: Objectives, trials: Iterable[FrozenTrial]) -> list[tuple[FrozenTrial, Point]]:
    """Return the trials whose releases no other one dominates, with their values.

    The best in the first objective comes first.
    """
    known = [(trial, point) for trial in trials if (point := released_point(trial)) is not None]
    return [known[at] for at in objectives.order([point for _, point in known])[0]]


def falls_behind(
    objectives: Objectives, trials: Iterable[FrozenTrial], number: int, grace: float, reduction: int
) -> bool:
    """Return whether a trial's last measurement is its first at a rung and not among the best there.

    Rungs are at `grace` times powers of `reduction` images. At a rung counts what each trial measured first
    at or after it; of n trials with a measurement there the best n / `reduction` go on, or one, and those
    that stand as well as the last of these.
    """
    measured = {trial.number: points(trial) for trial in trials}
    *_, before, last = 0, *measured[number]
    for rung in _rungs(grace, reduction, last):
        if rung <= before:
            continue
        reached = {
            at: found[step]
            for at, found in measured.items()
            if (step := next((one for one in found if one >= rung), None)) is not None
        }
        finite = {at: point for at, point in reached.items() if point is not None}
        if number not in finite:
            return True
        standings = dict(zip(finite, objectives.standings([*finite.values()]), strict=True))
        better = sum(standing < standings[number] for standing in standings.values())
        if better >= max(1, len(reached) // reduction):
            return True
    return False


def _rungs(grace: float, reduction: int, end: int) -> Iterator[float]:
    rung = max(1.0, grace)
    while rung <= end:
        yield rung
        rung *= reduction


class RankedSampler(BaseSampler):
    """A sampler of one objective that sees each trial's place among all as its value.

    Trials that meet the constraints are first; of these and of the others those that came to their end, then
    stopped ones by their length; among those of one length the order is that of the rungs. So Optuna's TPE
    orders trials of one objective too.
    """

    def __init__(self, sampler: BaseSampler, objectives: Objectives) -> None:
        self._sampler, self._objectives = sampler, objectives
        self._seen: Study | None = None

    def infer_relative_search_space(self, study: Study, trial: FrozenTrial) -> dict[str, BaseDistribution]:
        self._seen = _with_places(self._objectives, study.get_trials(deepcopy=False))
        return self._sampler.infer_relative_search_space(*self._view(trial))

    def sample_relative(
        self, study: Study, trial: FrozenTrial, search_space: dict[str, BaseDistribution]
    ) -> dict[str, Any]:
        return self._sampler.sample_relative(*self._view(trial), search_space)

    def sample_independent(
        self, study: Study, trial: FrozenTrial, param_name: str, param_distribution: BaseDistribution
    ) -> Any:
        return self._sampler.sample_independent(*self._view(trial), param_name, param_distribution)

    def _view(self, trial: FrozenTrial) -> tuple[Study, FrozenTrial]:
        assert self._seen is not None
        return self._seen, self._seen.get_trials(deepcopy=False)[trial.number]


class _Places(InMemoryStorage):
    """Shows a study the trials that it is given, and stores nothing of them."""

    def __init__(self, trials: list[FrozenTrial]) -> None:
        super().__init__()
        self._shown = trials

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        return [trial for trial in self._shown if states is None or trial.state in states]

    def set_trial_system_attr(self, trial_id: int, key: str, value: object) -> None:
        """Nothing: what a sampler stores of a trial that runs is known once its values are."""


def _with_places(objectives: Objectives, trials: Sequence[FrozenTrial]) -> Study:
    """Return a study of the same trials, in which the value of one that has ended is its place among all."""
    groups: dict[tuple[bool, int], dict[int, Point | None]] = {}
    for trial in trials:
        if trial.state in (TrialState.COMPLETE, TrialState.PRUNED):
            whole, found = trial.state == TrialState.COMPLETE, points(trial)
            last = max(found, default=0)
            group = groups.setdefault((not whole, 0 if whole else -last), {})
            group[trial.number] = released_point(trial) if whole else found.get(last)
    keys: list[tuple[bool, tuple[bool, int], Standing, int]] = []
    for name, group in groups.items():
        finite = {number: point for number, point in group.items() if point is not None}
        standings = dict(zip(finite, objectives.standings([*finite.values()]), strict=True))
        for number in group:
            standing = standings.get(number, (math.inf, 0, 0.0))
            keys.append((standing[0] > 0, name, standing, number))
    places = {number: place for place, (*_, number) in enumerate(sorted(keys))}
    shown = [_placed(trial, places.get(trial.number)) for trial in trials]
    return optuna.create_study(direction="minimize", storage=_Places(shown))


def _placed(trial: FrozenTrial, place: int | None) -> FrozenTrial:
    if place is None:
        return trial
    shown = copy.copy(trial)
    shown.state, shown.values, shown.system_attrs = TrialState.COMPLETE, [float(place)], {}
    return shown
