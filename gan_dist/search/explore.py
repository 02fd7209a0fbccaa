"""New values of keys that change within a run: perturbed (PBT), or chosen by a Gaussian process (PB2)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import cast

import numpy as np
import numpy.typing as npt
from optuna.distributions import CategoricalDistribution, IntDistribution

from gan_dist.core import rng
from gan_dist.search.space.distributions import Distribution, Value, all_values

Array = npt.NDArray[np.float64]
RESAMPLED = 0.25
"""Probability with which a value is drawn anew instead of perturbed; Ray Tune's default."""
FACTORS = (0.8, 1.2)
"""Perturbations: Jaderberg et al. 2017, appendix A."""
CANDIDATES = 1000
"""Points among which the Gaussian process chooses."""
_LENGTHS, _FORGETTING, _NOISES = (0.1, 0.2, 0.4, 0.8, 1.6), (0.0, 0.05, 0.1, 0.2, 0.4), (0.01, 0.1, 0.5)


def perturb(
    space: Mapping[str, Distribution], values: Mapping[str, Value], seed: int, *counters: int
) -> dict[str, Value]:
    """Return values near others: Jaderberg et al. 2017, "explore", by perturbing or by drawing anew."""
    draws = uniform(3 * len(space), seed, "pbt explore", *counters).reshape(-1, 3)
    found: dict[str, Value] = {}
    for (key, at), (which, place, way) in zip(space.items(), draws.tolist(), strict=True):
        if which < RESAMPLED:
            found[key] = from_unit(at, place)
        else:
            found[key] = _moved(at, values[key], up=way >= 0.5)
    return found


def _moved(at: Distribution, value: Value, *, up: bool) -> Value:
    """Return a value times a factor, within its range; of values that can be listed a neighbour."""
    if isinstance(at, CategoricalDistribution) or (isinstance(at, IntDistribution) and not at.log):
        every = all_values(at) or ()
        place = list(every).index(value) + (1 if up else -1)
        return every[min(max(place, 0), len(every) - 1)]
    moved = float(cast(float, value)) * FACTORS[up]
    if isinstance(at, IntDistribution):
        moved = math.ceil(moved) if up else math.floor(moved)
    return min(max(moved, at.low), at.high)


def from_unit(at: Distribution, place: float) -> Value:
    """Return the value at a place in [0, 1) of a distribution."""
    if (every := all_values(at)) is not None and not getattr(at, "log", False):
        return every[min(int(place * len(every)), len(every) - 1)]
    assert not isinstance(at, CategoricalDistribution)
    low, high = (math.log(at.low), math.log(at.high)) if at.log else (at.low, at.high)
    value = low + place * (high - low)
    value = min(max(math.exp(value) if at.log else value, at.low), at.high)
    return round(value) if isinstance(at, IntDistribution) else float(value)


def to_unit(at: Distribution, value: Value) -> float:
    """Return the place in [0, 1] of a value."""
    if isinstance(at, CategoricalDistribution):
        return (at.choices.index(value) + 0.5) / len(at.choices)
    number = float(cast(float, value))
    if at.log:
        return (math.log(number) - math.log(at.low)) / (math.log(at.high) - math.log(at.low))
    return (number - at.low) / (at.high - at.low)


def choose(
    space: Mapping[str, Distribution],
    tried: Sequence[tuple[float, Mapping[str, Value], float]],
    pending: Sequence[Mapping[str, Value]],
    now: float,
    seed: int,
    *counters: int,
) -> dict[str, Value]:
    """Return the values from which a time-varying Gaussian process expects the most.

    Parker-Holder et al. 2020 (PB2), algorithm 1. The kernel is k_SE(x, x') (1 - e)^(|t - t'| / 2), its
    length, e and noise those of a grid that make the data the likeliest. Of CANDIDATES points the one with
    the largest mean + sqrt(beta) std is taken, where beta = 0.2 + max(0, log(0.4 n)) as in their code, and
    `pending` narrows the deviation only.

    Args:
        space: Distribution by key.
        tried: Time, values and the improvement that they brought, for each interval of each member.
        pending: Values with which others train from now on.
        now: Time; the unit is an interval.
        seed: With `counters`, the key of the random numbers.
        counters: See `seed`.
    """
    draws = uniform(CANDIDATES * len(space), seed, "pb2 explore", *counters).reshape(-1, len(space))
    if len(tried) < 2:
        return _values(space, draws[0])

    def unit(values: Mapping[str, Value]) -> list[float]:
        return [to_unit(at, values[key]) for key, at in space.items()]

    at = np.array([[time, *unit(values)] for time, values, _ in tried])
    gained = np.array([gain for _, _, gain in tried])
    gained = (gained - gained.mean()) / (gained.std() or 1.0)
    grid = [(length, e, noise) for length in _LENGTHS for e in _FORGETTING for noise in _NOISES]
    length, e, noise = max(grid, key=lambda one: _log_likelihood(at, gained, *one))
    there = np.column_stack([np.full(CANDIDATES, now), draws])
    mean, _ = _posterior(at, gained, there, length, e, noise)
    others = np.array([[now, *unit(values)] for values in pending]).reshape(-1, at.shape[1])
    with_pending = np.concatenate([at, others])
    _, std = _posterior(with_pending, np.zeros(len(with_pending)), there, length, e, noise)
    beta = 0.2 + max(0.0, math.log(0.4 * len(tried)))
    best = draws[int(np.argmax(mean + math.sqrt(beta) * std))]
    return _values(space, best)


def _values(space: Mapping[str, Distribution], places: Array) -> dict[str, Value]:
    pairs = zip(space.items(), places.tolist(), strict=True)
    return {key: from_unit(at, place) for (key, at), place in pairs}


def _kernel(a: Array, b: Array, length: float, e: float) -> Array:
    apart = np.square(a[:, None, 1:] - b[None, :, 1:]).sum(2)
    since = np.abs(a[:, None, 0] - b[None, :, 0])
    kernel: Array = np.exp(-apart / (2 * length**2)) * (1 - e) ** (since / 2)
    return kernel


def _log_likelihood(at: Array, gained: Array, length: float, e: float, noise: float) -> float:
    lower = np.linalg.cholesky(_kernel(at, at, length, e) + noise * np.eye(len(at)))
    whitened = np.linalg.solve(lower, gained)
    return float(-np.square(whitened).sum() / 2 - np.log(np.diag(lower)).sum())


def _posterior(
    at: Array, gained: Array, there: Array, length: float, e: float, noise: float
) -> tuple[Array, Array]:
    """Return mean and standard deviation at `there` after `gained` was seen at `at`."""
    lower = np.linalg.cholesky(_kernel(at, at, length, e) + noise * np.eye(len(at)))
    between = np.linalg.solve(lower, _kernel(at, there, length, e))
    mean: Array = between.T @ np.linalg.solve(lower, gained)
    return mean, np.sqrt(np.maximum(0.0, 1.0 - np.square(between).sum(0)))


def uniform(count: int, seed: int, name: str, *counters: int) -> Array:
    """Return float64 numbers in [0, 1)."""
    return (rng.bits(count, seed, name, *counters) >> np.uint64(11)).astype(np.float64) / 2.0**53
