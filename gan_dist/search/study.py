"""A search's trials in an Optuna study: what each varies, what it measured and how it ended.

The study is the only memory. Whoever opens it again after a kill, wherever it came, finds every trial: those
that ended, and those that were running, which `next` returns first. A trial is a run in a folder of its own,
so it goes on from its checkpoint by itself. That a trial is to stop is stored before anything stops. A
measurement that is stored already is not judged again: after a kill between its storing and its judging, the
trial goes on to its next measurement. Once a trial has measured `search.target` or less no more trials begin,
and those that run go on to their end: so all states stay true, and the best may still get better.

With several objectives (`search/objectives.py`) the intermediate values of a trial are still its distances.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from gan_dist.artifacts.objectives import Objectives, Point
from gan_dist.config import SearchConfig
from gan_dist.core import rng
from gan_dist.core.errors import ResumeError
from gan_dist.search import objectives as several
from gan_dist.search.algorithms import make_pruner, make_sampler
from gan_dist.search.space import Space
from gan_dist.search.space.distributions import Value

SPACE, OWNER = "space", "search"
"""Names of a study's attributes: its space, and the search's identity."""
REASON, STOPPED = "reason", "stopped"
"""Names of a trial's attributes: why it failed, and the step at which it was to stop."""
_FIXED = "fixed_params"
"""Optuna's name of a trial's attribute: the values that were enqueued for it."""


class SearchStudy:
    """A study, and what a search does with it. One process at a time may open it.

    Args:
        storage: Storage of the study.
        name: The study's name there.
        space: Keys that vary.
        search: The section `search`.
        grace: Images before which no trial is stopped.
        length: Images of a whole trial: at its end no trial is stopped.
        owner: The search's identity, as `begin` returns it; a study without one becomes this search's.

    Raises:
        ConfigError: points that are not of the space, or a grid with too many or infinitely many points.
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
        self._grace, self.objectives = grace, Objectives.parse(search.objectives)
        pruner = make_pruner(search, grace, length)
        self._study = _open(storage, name, space, pruner, owner, self.objectives)
        known = self._study.get_trials(deepcopy=False)
        begun = [trial for trial in known if trial.state != TrialState.WAITING]
        running = [trial for trial in begun if not trial.state.is_finished()]
        self._begun, self._waiting = len(begun), len(known) - len(begun)
        self._running = {trial.number: Trial(self._study, trial._trial_id) for trial in running}
        self._interrupted = list(self._running)
        self._lowest = min(map(self._lowest_loss, begun), default=math.inf)
        self._ended = [trial._trial_id for trial in begun if trial.state.is_finished()]
        self._images = {trial.number: images_trained(trial) for trial in begun}
        self.images = sum(self._images.values())
        """Images that all trials have trained with, each up to its last measurement."""
        tried = {frozenset({**trial.system_attrs.get(_FIXED, {}), **trial.params}.items()) for trial in known}
        points = {frozenset(point.items()): point for point in _given_points(space, search)}
        self._points = [point for values, point in points.items() if values not in tried]

    def next(self) -> Trial | None:
        """Return a trial to run, with all its values; None when no more are to begin."""
        if self._interrupted:
            trial = self._running[self._interrupted.pop(0)]
        elif self._left:
            trial = self._begin()
        else:
            return None
        seed = int(rng.bits(1, self._search.seed, "search", trial.number)[0] >> 32)
        self._study.sampler = make_sampler(self._search, seed)
        self._space.suggest(trial)
        return trial

    def measure(self, number: int, step: int, record: Mapping[str, Any]) -> None:
        """Store what a trial has measured for several objectives, before the `report` of its distance."""
        trial = self._running[number]
        known = self._storage.get_trial(trial._trial_id).intermediate_values
        if self.objectives is not None and step not in known:
            several.store_point(trial, step, self.objectives.point(record))

    def report(self, number: int, step: int, value: float) -> bool:
        """Store a trial's measurement; return whether the trial is to stop for being worse than others.

        `step` is the images that it has trained with. A value that is not finite is stored as NaN.
        """
        trial = self._running[number]
        stops = STOPPED in trial.user_attrs
        if step in self._storage.get_trial(trial._trial_id).intermediate_values:
            return stops
        value = value if math.isfinite(value) else math.nan
        if self.objectives is None:
            trial.report(value, step)
        else:  # which Optuna's `report` refuses
            self._storage.set_trial_intermediate_value(trial._trial_id, step, value)
        self.images += max(0, step - self._images.get(number, 0))
        self._images[number] = max(step, self._images.get(number, 0))
        self._lowest = min(self._lowest, self._lowest_loss(self._storage.get_trial(trial._trial_id)))
        stops_now = not stops and step < self._length and self._falls_behind(trial)
        if stops_now:
            trial.set_user_attr(STOPPED, step)
        return stops or stops_now

    def complete(self, number: int) -> None:
        """End a trial that has run to its end; its value is the best that it measured."""
        trial = self._running[number]
        frozen = self._storage.get_trial(trial._trial_id)
        best = lowest_value(frozen)
        if not math.isfinite(best):
            self.fail(number, "it ended without a finite measurement")
        elif self.objectives is None:
            self._end(number, TrialState.COMPLETE, [best])
        elif values := several.final_values(self.objectives, trial, frozen):
            self._end(number, TrialState.COMPLETE, values)
        else:
            self.fail(number, f"it ended without finite values of {', '.join(self.objectives.names)}")

    def prune(self, number: int) -> None:
        """End a trial that was stopped for being worse than others."""
        self._end(number, TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """End a trial that failed, with the reason."""
        self._running[number].set_user_attr(REASON, reason)
        self._end(number, TrialState.FAIL)

    def note(self, number: int, name: str, value: object) -> None:
        """Store an attribute of a trial that has not ended."""
        self._running[number].set_user_attr(name, value)

    def trials(self) -> list[FrozenTrial]:
        """Return all trials that were begun, in order."""
        every = self._study.get_trials(deepcopy=False)
        return [trial for trial in every if trial.state != TrialState.WAITING]

    def running(self) -> list[FrozenTrial]:
        """Return the trials that have not ended, in order."""
        return [self._storage.get_trial(self._running[number]._trial_id) for number in sorted(self._running)]

    def ended(self, start: int = 0) -> list[FrozenTrial]:
        """Return the trials that have ended, from index `start` on; new ones come last."""
        return [self._storage.get_trial(trial_id) for trial_id in self._ended[start:]]

    def front(self) -> list[tuple[FrozenTrial, Point]]:
        """Return the trials that are best in several objectives, the best in the first one first."""
        return several.front(self.objectives, self.trials()) if self.objectives else []

    @property
    def unfinished(self) -> float:
        """Number of trials that are running or have not been given out; infinite without a limit."""
        return len(self._running) + self._left

    @property
    def target_reached(self) -> bool:
        """Whether a trial has measured `search.target` or better, within the constraints."""
        target, objectives = self._search.target, self.objectives
        if target is not None and objectives is not None:
            target = objectives.loss(objectives.first, {objectives.first: target})
        return target is not None and self._lowest <= target

    @property
    def _left(self) -> float:
        if self.target_reached:
            return 0
        left = max(0, self._search.most_trials - self._begun)
        return min(left, self._waiting + len(self._points)) if self._search.algorithm == "grid" else left

    def _begin(self) -> Trial:
        if self._waiting:  # a process was killed between the next two lines
            self._waiting -= 1
        elif self._points:
            self._study.enqueue_trial(self._points.pop(0))
        trial = self._study.ask()
        self._begun += 1
        self._running[trial.number] = trial
        return trial

    def _falls_behind(self, trial: Trial) -> bool:
        if self.objectives is not None:
            grace = self._grace if self._search.scheduler == "asha" else math.inf
            return several.falls_behind(
                self.objectives, self.trials(), trial.number, grace, self._search.reduction
            )
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "All-NaN", RuntimeWarning)  # MedianPruner's, of such a trial
            return trial.should_prune()

    def _lowest_loss(self, trial: FrozenTrial) -> float:
        """Return the lowest that a trial has measured of what `search.target` is for."""
        return several.lowest_loss(self.objectives, trial) if self.objectives else lowest_value(trial)

    def _end(self, number: int, state: TrialState, values: Sequence[float] | None = None) -> None:
        self._study.tell(number, values, state=state)
        self._ended.append(self._running.pop(number)._trial_id)


def images_trained(trial: FrozenTrial) -> int:
    """Return the images that a trial has trained with, up to its last measurement."""
    return max(trial.intermediate_values, default=0)


def lowest_value(trial: FrozenTrial) -> float:
    """Return the lowest finite value that a trial has measured, or infinity."""
    return min(filter(math.isfinite, trial.intermediate_values.values()), default=math.inf)


def _open(
    storage: BaseStorage,
    name: str,
    space: Space,
    pruner: BasePruner,
    owner: Mapping[str, str] | None,
    objectives: Objectives | None,
) -> Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    modes = objectives.modes.values() if objectives else ["min"]
    directions = [several.DIRECTIONS[mode] for mode in modes]
    study = optuna.create_study(
        storage=storage, study_name=name, directions=directions, pruner=pruner, load_if_exists=True
    )
    earlier = study.user_attrs.get(SPACE)
    if earlier is None and not study.get_trials(deepcopy=False):
        if objectives is not None:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ExperimentalWarning)
                study.set_metric_names([*objectives.modes])
        study.set_user_attr(SPACE, space.to_json())
    elif earlier is None or study.directions != directions:
        raise ResumeError(
            f"the study {name} was not made by a search, or by one with other objectives",
            "give the search another name (name=...)",
        )
    elif differing := space.differences(Space.from_json(earlier)):
        raise ResumeError(
            f"the search {name} has another space: {'; '.join(differing)}",
            "give the search another name (name=...), or the space that it was begun with",
            keys=("search.space", "name"),
        )
    if owner is not None:
        _require_owner(study, owner)
    return study


def _require_owner(study: Study, owner: Mapping[str, str]) -> None:
    """Refuse the study of another search: a database may hold those of several with the same name."""
    earlier = study.user_attrs.get(OWNER)
    if earlier is None:
        study.set_user_attr(OWNER, dict(owner))
    elif earlier["id"] != owner["id"]:
        raise ResumeError(
            f"the study {study.study_name} in search.optuna_storage is that of another search, begun in "
            f"{earlier['folder']}; this one is in {owner['folder']}",
            "give the search another name (name=...), or, if the other is no longer wanted, delete its "
            f"study: optuna delete-study --study-name {study.study_name} --storage ...",
            keys=("search.optuna_storage", "name"),
        )


def _given_points(space: Space, search: SearchConfig) -> list[dict[str, Value]]:
    """Return the points that no sampler draws: `search.points`, then a grid's in random order.

    Optuna's GridSampler is not used: it has no conditions, and would run points once for each value of a key
    that does not apply to them.
    """
    for point in search.points:
        space.check_point(point)
    points: list[Mapping[str, Value]] = list(search.points)
    if search.algorithm == "grid":
        grid = space.grid()
        points += [grid[place] for place in rng.permutation(len(grid), search.seed, "grid")]
    return [space.normalise(point) for point in points]
