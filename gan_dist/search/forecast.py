"""What a search will have cost at its end, and the value that it will probably have reached.

All is a pure function of the curves so far. Trials that run are extended: each by the slopes, in the
logarithms of value and images, that other trials had there, up to where an ended trial stopped. The lowest of
all values is then that of a sample whose tail is a generalised Pareto distribution (Pickands 1975) with a
bounded end, fitted to the lowest values so far: of n trials with a threshold's excesses of mean e, the
probability that one of m to come lies below the lowest of n is about m / (m + n), and how far below follows
from e. A sampler that learns counts its trials more than once (`GAIN`). Shape and gain were chosen on other
simulated searches than those on which `python -m benchmarks search` measures how often the interval holds.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gan_dist.config import SearchConfig
from gan_dist.core import rng
from gan_dist.search.algorithms import POPULATIONS

DRAWS = 400
MASS = 0.9
"""Share of the draws that an interval has."""
FEWEST = 4
"""Measured trials below which no value is claimed."""
RECENT = 200
"""Ended trials, the last ones, from which lengths and slopes are drawn."""
SHAPE = 0.25
"""Of the tail: it ends at 1 / SHAPE of its scale below the lowest value."""
GAIN = 1.5
"""Trials at random that are worth one of a sampler that learns."""
DRIFT = 0.8
"""How much longer or shorter later trials are than earlier ones, as a standard deviation of the logarithm."""
RULE = 3.0
"""Trials as which the rule of the scheduler counts."""
UNLIMITED = 100
"""Trials by which the rule of the scheduler is reckoned where their number has no limit."""
_LEVELS = 21
_Floats = npt.NDArray[np.float64]


class Interval(NamedTuple):
    """A figure: in `MASS` of all cases from `low` to `high`, and in half of them up to `middle`."""

    low: float
    middle: float
    high: float


@dataclass(frozen=True)
class Forecast:
    """The end of a search, seen from some moment of it."""

    images: Interval
    """Images that all trials will have trained with."""
    value: Interval | None
    """Lowest value; None where too few trials are measured to claim any."""


@dataclass(frozen=True)
class Curve:
    """The finite measurements of a trial, in order."""

    images: tuple[int, ...]
    values: tuple[float, ...]
    trained: int
    """Images of its last measurement, a finite one or not."""

    @cached_property
    def lowest(self) -> float:
        """Lowest value, or infinity."""
        return min(self.values, default=math.inf)


def mean_images(search: SearchConfig, grace: int, length: int) -> float:
    """Return images of a trial on average, of `length` at most, as the scheduler lets trials through.

    By its rule alone, where all orders of values are alike: at a rung, from `grace` on, the i-th trial goes
    on if it is among the best i / `search.reduction` there, or the best. `hyperband` has several ladders,
    which begin at different rungs; `median` stops half of the trials, most of them soon.
    """
    if search.scheduler in ("none", *POPULATIONS) or grace >= length:
        return length
    if search.scheduler == "median":
        return (length + grace) / 2
    trials = int(min(search.most_trials, UNLIMITED))
    rungs = [*_rungs(grace, length, search.reduction), length]
    ladders = range(len(rungs) if search.scheduler == "hyperband" else 1)
    total = 0.0
    for first in ladders:
        there = trials / len(ladders)
        total += there * rungs[first]
        for before, after in pairwise(rungs[first:]):
            there = sum(max(1, i // search.reduction) / i for i in range(1, 1 + math.ceil(there)))
            total += there * (after - before)
    return min(length, total / trials)


def _rungs(grace: int, length: int, reduction: int) -> list[int]:
    rungs = [max(1, grace)]
    while rungs[-1] * reduction < length:
        rungs.append(rungs[-1] * reduction)
    return rungs


def forecast(
    ended: Sequence[Curve],
    running: Sequence[Curve],
    more: float,
    *,
    every: int,
    length: int,
    mean: float,
    images_left: float = math.inf,
    learns: bool = True,
) -> Forecast:
    """Return the end of a search.

    Args:
        ended: Trials that have ended, in the order of their ends.
        running: Trials that run.
        more: Trials that may still begin; infinite without a limit.
        every: Images between measurements.
        length: Images of a whole trial.
        mean: Images of a trial, on average, by the scheduler's rule (`mean_images`).
        images_left: Images until the budget is spent.
        learns: Whether the sampler learns from earlier trials.
    """
    recent = ended[-RECENT:]
    spent = sum(one.trained for one in (*ended, *running))
    longer = np.exp(DRIFT * _normal("drift"))
    lengths, staying = _lengths(recent, running, length, mean)
    ends = [_ends(one, lengths, staying ** (1 / longer), number) for number, one in enumerate(running)]
    rest = np.sum([end - one.trained for end, one in zip(ends, running, strict=True)], axis=0, initial=0.0)
    reached = np.cumprod(np.vstack([np.ones(DRAWS), staying]), axis=0)
    shares = reached - np.vstack([reached[1:], np.zeros(DRAWS)])
    mean_length = (shares * lengths[:, None]).sum(0)
    each = np.clip(mean_length * longer, 1.0, length)
    spread = np.sqrt((shares * (lengths[:, None] - mean_length) ** 2).sum(0)) * each / mean_length
    to_come = np.minimum(more, np.maximum(0.0, images_left - rest) / each)
    known = np.isfinite(to_come).all()
    totals = np.full(DRAWS, math.inf)
    if known:
        sums = np.clip(to_come * each + np.sqrt(to_come) * spread * _normal("sums"), 0.0, to_come * length)
        totals = spent + np.minimum(rest + sums, images_left)
    low, middle, high = np.quantile(totals, ((1 - MASS) / 2, 0.5, (1 + MASS) / 2)) if known else totals[:3]
    value = _value(ended, running, ends, to_come, every, learns=learns) if known else None
    return Forecast(Interval(float(low), float(middle), float(high)), value)


def _lengths(
    ended: Sequence[Curve], running: Sequence[Curve], length: int, mean: float
) -> tuple[_Floats, _Floats]:
    """Return the lengths that trials may have, and the shares that go on where each but the last ends.

    These are Kaplan and Meier's (1958): a trial that runs counts as long as it has come, so that those that
    ended, the short ones, do not stand for all. There is a share (lengths - 1, DRAWS) for each draw of random
    weights of the trials, the Bayesian bootstrap (Rubin 1981). The rule counts as `RULE` trials more.
    """
    came = np.array([mean, *(one.trained for one in (*ended, *running))], float)
    over = np.arange(len(came)) <= len(ended)
    weights = -np.log(_uniform(came.size * DRAWS, "weights")).reshape(-1, DRAWS)
    weights[0] *= RULE
    lengths = np.unique(came[over & (came < length)])
    ending = [weights[over & (came == end)].sum(0) / weights[came >= end].sum(0) for end in lengths]
    return np.append(lengths, length), 1 - np.array(ending).reshape(-1, DRAWS)


def _ends(one: Curve, lengths: _Floats, staying: _Floats, number: int) -> _Floats:
    """Return where a trial that runs may end: by the shares that go on at the lengths before it."""
    later = lengths[:-1] > one.trained
    reached = np.cumprod(staying[later], axis=0)
    passed = (reached > _uniform(DRAWS, "ends", number)).sum(0)
    return np.asarray(np.maximum(np.append(lengths[:-1][later], lengths[-1])[passed], one.trained))


def _value(
    ended: Sequence[Curve],
    running: Sequence[Curve],
    ends: Sequence[_Floats],
    to_come: _Floats,
    every: int,
    *,
    learns: bool,
) -> Interval | None:
    """Return the lowest value at the end of the search; None where too few trials are measured."""
    measured = [one for one in (*ended, *running) if one.values]
    if len(measured) < FEWEST:
        return None
    lowest = min(one.lowest for one in measured)
    log = lowest > 0  # others than distances may be negative: for them slopes and tail are those of the value
    forward, back = (math.log, np.exp) if log else (float, np.asarray)
    drops = _drops([*ended[-RECENT:], *running], every, forward)
    rows = [np.full(DRAWS, forward(one.lowest)) for one in ended if one.values]
    for number, (one, end) in enumerate(zip(running, ends, strict=True)):
        if one.values:
            rows.append(forward(one.lowest) - _drop(drops, one.trained, end, every, number))
    tail = np.sort(np.array(rows), axis=0)
    count = min(len(tail), max(FEWEST, round(0.4 * len(tail))), 15)
    excess = (tail[count - 1] - tail[: count - 1]).mean(0) * (1 + SHAPE)
    scale = np.maximum(excess - SHAPE * (tail[count - 1] - tail[0]), 0.1 * excess)
    unmeasured = sum(not one.values for one in running)
    odds = (to_come + unmeasured) * (GAIN if learns else 1.0) / max(1, len(ended) + len(running) - unmeasured)
    level = (rng.permutation(DRAWS, 0, "forecast") + 0.5) / DRAWS
    beyond = np.maximum(1.0, odds * level / (1 - level))
    found = tail[0] - scale * (1 - beyond**-SHAPE) / SHAPE
    low, high = _narrowest(np.minimum(found, forward(lowest)))
    middle = float(np.median(np.minimum(found, forward(lowest))))
    return Interval(*(float(back(one)) for one in (low, middle, high)))


def _drops(curves: Sequence[Curve], every: int, forward: Callable[[float], float]) -> _Floats:
    """Return by measurement and level of speed how far curves fall, in all, up to there.

    Beyond the last measurement they go on with its slope in the logarithm of the images.
    """
    slopes: dict[int, list[float]] = {}
    for one in curves:
        pairs = zip(one.images, one.values, strict=True)
        for (before, high), (after, low) in pairwise((at, forward(value)) for at, value in pairs if at > 0):
            slopes.setdefault(round(after / every), []).append((high - low) / math.log(after / before))
    levels = np.linspace(0, 1, _LEVELS)
    last, fallen = np.zeros(_LEVELS), [np.zeros(_LEVELS)]
    if slopes:
        last = np.quantile(slopes[min(slopes)], levels)
    for place in range(1, 1 + max(slopes, default=1)):
        if place in slopes:
            last = np.quantile(slopes[place], levels)
        fallen.append(fallen[-1] + np.maximum(0.0, last) * math.log(max(place, 2) / max(place - 1, 1)))
    return np.array([*fallen, np.maximum(0.0, last)])  # the last row is the slope that goes on


def _drop(drops: _Floats, at: int, ends: _Floats, every: int, number: int) -> _Floats:
    """Return draws of how far a trial falls from images `at` to its `ends`."""
    level = (_uniform(DRAWS, "level", number) * _LEVELS).astype(int)
    known = len(drops) - 2

    def fallen(images: _Floats) -> _Floats:
        place = np.maximum(1, np.rint(images / every)).astype(int)
        further = drops[-1, level] * np.log(np.maximum(1.0, place / max(1, known)))
        return np.asarray(drops[np.minimum(place, known), level] + further)

    # A mean of 1 and a wide spread: this trial is not like another at that level.
    first, second = _uniform(2 * DRAWS, "speed", number).reshape(2, DRAWS)
    return (fallen(ends) - fallen(np.full(DRAWS, float(at)))) * -np.log(first * second) / 2


def _narrowest(draws: _Floats) -> tuple[float, float]:
    """Return the narrowest interval with `MASS` of the draws."""
    draws = np.sort(draws)
    count = math.ceil(MASS * len(draws))
    first = int(np.argmin(draws[count - 1 :] - draws[: len(draws) - count + 1]))
    return float(draws[first]), float(draws[first + count - 1])


def _normal(name: str) -> _Floats:
    """Return a standard normal number for each draw, by Box and Muller's formula."""
    radius, angle = _uniform(2 * DRAWS, name).reshape(2, DRAWS)
    return np.asarray(np.sqrt(-2 * np.log(radius)) * np.cos(2 * np.pi * angle))


def _uniform(count: int, name: str, number: int = 0) -> _Floats:
    """Return numbers above 0 and below 1, the same ones at each call."""
    drawn = rng.bits(count, 0, f"forecast {name}", number) / 2.0**64
    return np.asarray(drawn.clip(1e-12, 1 - 1e-12))
