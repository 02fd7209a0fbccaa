"""What stops trials: rules over the values that trials have reported so far, kept in memory.

A rule is rebuilt from a study's trials in any order, and decides at the cost of a search in a sorted list.
"""

from __future__ import annotations

import math
from bisect import insort
from statistics import median
from typing import Protocol

from gan_dist.config import SearchConfig

ENOUGH = 4
"""Trials that have to be complete before `Median` stops any."""


class Scheduler(Protocol):
    """A rule by which trials are stopped."""

    def report(self, number: int, step: int, value: float) -> bool:
        """Note a trial's value, in the order of its steps; return whether the trial should stop."""

    def ended(self, number: int, *, complete: bool) -> None:
        """Note that a trial reports no more, and whether it came to its end."""


def make_scheduler(search: SearchConfig, grace: int) -> Scheduler:
    """Return the rule that a configuration names; before the step `grace` it stops nothing."""
    match search.scheduler:
        case "asha":
            return Asha(grace, search.reduction)
        case "median":
            return Median(grace)
        case "none":
            return Never()


class Never:
    """Stops nothing."""

    def report(self, number: int, step: int, value: float) -> bool:
        return False

    def ended(self, number: int, *, complete: bool) -> None: ...


class Asha:
    """Asynchronous successive halving (Li et al. 2020), the variant that stops instead of pausing.

    There are rungs at the steps grace, grace x reduction, grace x reduction^2 and so on. A trial's first
    value at or after a rung counts there, and the trial goes on if that is among the best 1/reduction of the
    values that have been counted there so far; while these are fewer than `reduction`, if it is the best.
    """

    def __init__(self, grace: int, reduction: int) -> None:
        self._grace, self._reduction = max(1, grace), reduction
        self._rungs: list[list[float]] = []
        self._passed: dict[int, int] = {}

    def report(self, number: int, step: int, value: float) -> bool:
        value = value if math.isfinite(value) else math.inf
        stop = False
        while step >= self._grace * self._reduction ** (rung := self._passed.get(number, 0)):
            self._passed[number] = rung + 1
            if rung == len(self._rungs):
                self._rungs.append([])
            values = self._rungs[rung]
            insort(values, value)
            worst = values[max(1, len(values) // self._reduction) - 1]
            stop |= value > worst or value == math.inf
        return stop

    def ended(self, number: int, *, complete: bool) -> None:
        self._passed.pop(number, None)


class Median:
    """Stops a trial whose best value so far is worse than the median of complete trials' at that point.

    Points are compared by their place in the curve, first to first and so on: trials with other batch sizes
    report at slightly other steps. (The rule of Golovin et al. 2017, section 3.2.2, with the best value in
    place of the running mean.)
    """

    def __init__(self, grace: int) -> None:
        self._grace = grace
        self._curves: dict[int, list[float]] = {}
        self._complete: list[list[float]] = []

    def report(self, number: int, step: int, value: float) -> bool:
        curve = self._curves.setdefault(number, [])
        value = value if math.isfinite(value) else math.inf
        curve.append(min([value, *curve[-1:]]))
        if step < self._grace or len(curve) > len(self._complete):
            return False
        others = self._complete[len(curve) - 1]
        return len(others) >= ENOUGH and curve[-1] > median(others)

    def ended(self, number: int, *, complete: bool) -> None:
        curve = self._curves.pop(number, [])
        if not complete:
            return
        for place, value in enumerate(curve):
            if place == len(self._complete):
                self._complete.append([])
            insort(self._complete[place], value)
