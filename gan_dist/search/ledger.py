"""A search's book: which trials there are, what each has reported and how it ended, kept in an Optuna study.

The study is the only memory. Whoever opens it again after a kill, wherever it came, finds every trial: those
that ended, and those that were running, which are given out first. A trial is a run in a folder of its own,
so that it goes on from its checkpoint by itself.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import optuna
from optuna.pruners import BasePruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState

from gan_dist import randomness
from gan_dist.config import SearchConfig
from gan_dist.errors import ResumeError
from gan_dist.search.samplers import make_sampler
from gan_dist.search.space import Space

SPACE, REASON = "space", "reason"
"""Names of a study's and a trial's attributes."""
ENDED = (TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL)


@dataclass(frozen=True)
class Task:
    """A trial to run."""

    number: int
    values: Mapping[str, Any]
    """What it varies, by configuration key."""
    resumed: bool
    """Whether an earlier process has begun it."""


class Ledger:
    """A study, and the few things that a search does with it.

    Args:
        storage: Where the study is kept.
        name: Its name there.
        space: What is varied.
        search: How.
        grace: Step before which no trial is stopped, in reports' steps.

    Raises:
        ResumeError: the study is of another space; with what differs.
    """

    def __init__(
        self, storage: BaseStorage, name: str, space: Space, search: SearchConfig, grace: int
    ) -> None:
        self._space, self._search = space, search
        self._study = _open(storage, name, _pruner(search, grace))
        self._require_same_space(name)
        self._running: dict[int, Trial] = {}
        known = self._study.get_trials(deepcopy=False)
        self._interrupted = [trial for trial in known if trial.state == TrialState.RUNNING]
        if not known:
            for point in search.points:
                space.check_point(point)
                self._study.enqueue_trial(dict(point))
        self._given = len(known) - sum(trial.state == TrialState.WAITING for trial in known)

    def next(self) -> Task | None:
        """Return a trial to run, or None when all have been given out."""
        if self._interrupted:
            frozen = self._interrupted.pop(0)
            trial = Trial(self._study, frozen._trial_id)
            # The process may have ended between asking for values one after another.
            values = self._space.suggest(trial)
            self._running[trial.number] = trial
            return Task(trial.number, values, resumed=True)
        if self._given >= self._search.trials:
            return None
        # Every trial is a function of the seed, its number and the history: also after a restart.
        seed = int(randomness.bits(1, self._search.seed, "search", self._given)[0] >> 32)
        self._study.sampler = make_sampler(self._search.algorithm, self._space, seed)
        trial = self._study.ask()
        values = self._space.suggest(trial)
        self._given += 1
        self._running[trial.number] = trial
        return Task(trial.number, values, resumed=False)

    def report(self, number: int, step: int, value: float) -> bool:
        """Note a trial's value at a step; return whether it should stop for being worse than others.

        A step that was noted before a restart stays as it was.
        """
        trial = self._running[number]
        if step not in self._frozen(trial).intermediate_values:
            trial.report(value, step)
        return trial.should_prune()

    def complete(self, number: int) -> None:
        """Note that a trial has run to its end; its value is the best that it reported."""
        values = self._frozen(self._running[number]).intermediate_values.values()
        best = min((value for value in values if math.isfinite(value)), default=None)
        if best is None:
            self.fail(number, "it ended without a measurement")
        else:
            self._tell(number, TrialState.COMPLETE, best)

    def prune(self, number: int) -> None:
        """Note that a trial was stopped for being worse than others."""
        self._tell(number, TrialState.PRUNED)

    def fail(self, number: int, reason: str) -> None:
        """Note that a trial failed, and why."""
        self._running[number].set_user_attr(REASON, reason)
        self._tell(number, TrialState.FAIL)

    def trials(self) -> list[FrozenTrial]:
        """Return all trials that were begun, in order."""
        return [t for t in self._study.get_trials(deepcopy=False) if t.state != TrialState.WAITING]

    @property
    def unfinished(self) -> int:
        """How many trials are running or have not been given out."""
        return self._search.trials - sum(trial.state in ENDED for trial in self.trials())

    def _tell(self, number: int, state: TrialState, value: float | None = None) -> None:
        trial = self._running.pop(number)
        self._study.tell(trial, value, state=state)

    def _frozen(self, trial: Trial) -> FrozenTrial:
        return self._study._storage.get_trial(trial._trial_id)

    def _require_same_space(self, name: str) -> None:
        data = self._study.user_attrs.get(SPACE)
        if data is None:
            self._study.set_user_attr(SPACE, self._space.to_json())
            return
        differing = self._space.differences(Space.from_json(data))
        if differing:
            raise ResumeError(
                f"the search {name} has another space: {'; '.join(differing)}. Give the search another name "
                "(name=...), or the space that it was begun with"
            )


def _open(storage: BaseStorage, name: str, pruner: BasePruner) -> Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    return optuna.create_study(
        storage=storage, study_name=name, pruner=pruner, direction="minimize", load_if_exists=True
    )


def _pruner(search: SearchConfig, grace: int) -> BasePruner:
    """Return the rule by which trials are stopped; it decides from the study alone, also after a restart."""
    match search.scheduler:
        case "asha":
            return SuccessiveHalvingPruner(min_resource=grace, reduction_factor=search.reduction)
        case "median":
            return MedianPruner(n_startup_trials=4, n_warmup_steps=grace)
        case "none":
            return NopPruner()
