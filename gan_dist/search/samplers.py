"""What picks the values of a trial: Optuna's samplers, shown a bounded part of the trials before it."""

from __future__ import annotations

import math
import warnings
from bisect import insort
from collections.abc import Container, Mapping, Sequence
from typing import Literal

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import InMemoryStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from gan_dist.search.space import Space
from gan_dist.search.space.ranges import Value

Algorithm = Literal["tpe", "random"]

BEST, LATEST = 10, 40
"""Ended trials that a sampler is shown. TPE takes the best tenth of what it sees for good; when it saw
25 and 225, a trial cost twice as much, and what was found was no better (`benchmarks/`)."""
RANDOM = 5
"""One trial in so many is random, or TPE can stay with the first good choices for hundreds of trials."""


def pick(algorithm: Algorithm, space: Space, seed: int, shown: Sequence[FrozenTrial]) -> dict[str, Value]:
    """Return the values of the next trial: a function of the arguments alone.

    Args:
        algorithm: `tpe` models the keys that apply together jointly (Bergstra et al. 2011; Falkner et al.
            2018, section 3.2, whose share of random trials it has too), and takes trials that still run for
            bad ones, so that the next is no copy of them. Its first ten are random.
        space: What is varied.
        seed: From 0 to 2**32 - 1; every trial needs another.
        shown: Earlier trials, as `History` has them.
    """
    study = optuna.create_study(storage=_Showing(shown), sampler=_sampler(algorithm, seed))
    return space.suggest(study.ask())


def _sampler(algorithm: Algorithm, seed: int) -> BaseSampler:
    if algorithm == "random" or seed % RANDOM == 0:
        return RandomSampler(seed=seed)
    with warnings.catch_warnings():
        # `group` has been experimental since 2021; releases are pinned.
        warnings.simplefilter("ignore", ExperimentalWarning)
        return TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)


class _Showing(InMemoryStorage):
    """A storage in which there are given trials before its own."""

    def __init__(self, shown: Sequence[FrozenTrial]) -> None:
        super().__init__()
        self._shown = shown

    def get_all_trials(
        self, study_id: int, deepcopy: bool = True, states: Container[TrialState] | None = None
    ) -> list[FrozenTrial]:
        shown = [trial for trial in self._shown if states is None or trial.state in states]
        return shown + super().get_all_trials(study_id, deepcopy, states)


class History:
    """The trials that a sampler is shown: all that run, and of those that have ended the best and the latest.

    Which these are follows from the trials, not from the order in which they ended.
    """

    def __init__(self, space: Space) -> None:
        self._space = space
        self._trials: dict[int, FrozenTrial] = {}
        self._best: list[tuple[float, float, int]] = []
        self._latest: list[int] = []

    def began(self, number: int, values: Mapping[str, Value]) -> None:
        """Note a trial that runs."""
        self._trials[number] = self._trial(TrialState.RUNNING, values)

    def ended(self, number: int, state: TrialState, curve: Sequence[float]) -> None:
        """Note how a trial ended, and what it had reported until then.

        Trials that were stopped are good by how far they came, then by their last value. One that failed is
        shown as stopped before it came to anything: Optuna would leave it out, and try its like again.
        """
        values = self._trials[number].params
        if state == TrialState.COMPLETE:
            best = min(filter(math.isfinite, curve))
            order = (-math.inf, best)
            trial = self._trial(state, values, value=best)
        elif state == TrialState.PRUNED and curve:
            # By measurements, not images: other batch sizes are measured at slightly other counts.
            last = curve[-1] if math.isfinite(curve[-1]) else math.inf
            order = (-float(len(curve)), last)
            trial = self._trial(state, values, curve={len(curve): last})
        else:
            order = (math.inf, 0.0)
            trial = self._trial(TrialState.PRUNED, values)
        self._trials[number] = trial
        self._keep(number, order)

    def shown(self) -> list[FrozenTrial]:
        """Return the trials, the latest last; they have no numbers of their own."""
        return [self._trials[number] for number in sorted(self._trials)]

    def _keep(self, number: int, order: tuple[float, float]) -> None:
        """Forget the trials that are neither among the best nor among the latest any more."""
        insort(self._best, (*order, number))
        insort(self._latest, number)
        left = [at[-1] for at in self._best[BEST:]] + self._latest[:-LATEST]
        del self._best[BEST:], self._latest[:-LATEST]
        kept = {*self._latest, *(at[-1] for at in self._best)}
        for gone in left:
            if gone not in kept:
                self._trials.pop(gone, None)

    def _trial(
        self,
        state: TrialState,
        values: Mapping[str, Value],
        *,
        value: float | None = None,
        curve: dict[int, float] | None = None,
    ) -> FrozenTrial:
        return create_trial(
            state=state,
            value=value,
            params=dict(values),
            distributions={key: self._space.distributions[key] for key in values},
            intermediate_values=curve,
        )
