"""Simulated trials: learning curves that depend on the settings as those of GANs do, and a search over them.

A distance falls as a power of the images from that of an untrained generator towards a final value. That is
the product of log-quadratic bowls: in the generator's rate, in the ratio of the two rates, in the betas and
in the penalties, whose best places differ with the loss. Small rates learn more slowly, so that curves cross;
large ones diverge, the sooner the larger. Measurements have 1.5 % of noise.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from gan_dist.config import SearchConfig
from gan_dist.search.space import Space
from gan_dist.search.space.parse import parse
from gan_dist.search.study import SearchStudy

EVERY, LENGTH = 3_000, 81_000
"""Images between measurements, and of a whole trial."""
UNTRAINED, NOISE = 300.0, 0.015
KEYS: dict[str, object] = {
    "optim.g.lr": {"log": [1e-5, 1e-2]},
    "optim.d.lr": {"log": [1e-5, 1e-2]},
    "optim.g.beta1": [0.0, 0.5],
    "optim.d.beta1": [0.0, 0.5],
    "optim.g.beta2": {"uniform": [0.9, 0.999]},
    "loss.name": ["nonsaturating", "hinge", "wgan-gp", "rpgan"],
    "loss.gp": {"log": [1, 30], "when": {"loss.name": "wgan-gp"}},
    "loss.r1": {"log": [0.01, 10], "when": {"loss.name": ["nonsaturating", "hinge", "rpgan"]}},
    "loss.r2": {"log": [0.01, 10], "when": {"loss.name": "rpgan"}},
}
BEST = {
    "nonsaturating": (6.0, 5e-4, 1.0),
    "hinge": (7.0, 3e-4, 3.0),
    "wgan-gp": (8.0, 2e-4, 1.5),
    "rpgan": (4.0, 8e-4, 1.0),
}
"""By loss: its lowest distance, and there the generator's rate and the ratio of the discriminator's to it."""

MOST = {"nonsaturating": 0.8, "hinge": 0.88, "wgan-gp": 0.95, "rpgan": 0.7}
"""By loss: its highest coverage."""


@dataclass(frozen=True)
class Curve:
    """What one trial would measure."""

    final: float
    slope: float
    diverges: float
    """Images after which nothing is finite any more."""
    seed: int
    coverage: float
    """Coverage that it tends to."""

    def at(self, images: int) -> float:
        """Return the distance measured after so many images."""
        if images >= self.diverges:
            return math.nan
        noise = np.random.default_rng([self.seed, images]).normal(0, NOISE)
        fallen = (1 + images / EVERY) ** -self.slope
        return float((self.final + (UNTRAINED - self.final) * fallen) * math.exp(noise))

    def coverage_at(self, images: int) -> float:
        """Return the coverage measured after so many images."""
        noise = np.random.default_rng([self.seed, images, 1]).normal(0, NOISE)
        missing = (1 + images / EVERY) ** -self.slope
        return float(self.coverage * (1 - missing) * math.exp(noise))


def space() -> Space:
    """Return the space that is searched: nine keys, three of them with conditions."""
    return parse(KEYS, {})


def curve(values: Mapping[str, Any], seed: int) -> Curve:
    """Return the curve of a trial with these values; `seed` is that of its noise."""
    lowest, rate, ratio = BEST[values["loss.name"]]
    momentum = values["optim.g.beta1"] + values["optim.d.beta1"]
    # A running mean of the gradient makes steps larger.
    off = math.log10(values["optim.g.lr"] * (1 + momentum) / rate)
    apart = math.log10(values["optim.d.lr"] / values["optim.g.lr"] / ratio)
    bowls = 1.2 * off**2 + 0.9 * apart**2 + 0.4 * off * apart + 0.25 * momentum
    bowls += 0.3 * (math.log10(1 - values["optim.g.beta2"]) + 1.7) ** 2
    for key, best in (("loss.gp", 8.0), ("loss.r1", 0.3), ("loss.r2", 0.3)):
        if key in values:
            bowls += 0.4 * math.log10(values[key] / best) ** 2
    slope = 2.2 / (1 + math.exp(-1.5 * (off + 0.7)))
    wild = off + 0.5 * abs(apart) - 1.4 + 0.3 * float(np.random.default_rng(seed).normal())
    diverges = LENGTH * 10 ** (-2 * wild) if wild > 0 else math.inf
    distance = lowest * math.exp(min(bowls, 4.0))
    return Curve(distance, slope, diverges, seed, _coverage(values, off, apart, momentum))


def _coverage(values: Mapping[str, Any], off: float, apart: float, momentum: float) -> float:
    """Return the coverage that a trial tends to, from the decades that its rates are off and apart.

    A faster discriminator, a larger penalty and another loss are best for it than for the distance.
    """
    bowls = 0.9 * off**2 + 0.6 * (apart - 0.5) ** 2 + 0.1 * momentum
    for key, best in (("loss.gp", 30.0), ("loss.r1", 3.0), ("loss.r2", 3.0)):
        if key in values:
            bowls += 0.25 * math.log10(values[key] / best) ** 2
    return MOST[values["loss.name"]] * math.exp(-min(bowls, 4.0))


def noise(seed: int, number: int) -> int:
    """Return the seed of a trial's noise in a search."""
    return hash((seed, number)) % 2**32


def run(
    study: SearchStudy, seed: int, concurrent: int, until: Callable[[float], bool] = lambda _: False
) -> tuple[int, float]:
    """Run a search's trials, several at a time.

    Args:
        study: The search.
        seed: Seed of the trials' noise and of how fast each of them is.
        concurrent: Trials at a time.
        until: Whether the best value so far is good enough to end.

    Returns:
        The images that were trained with, and the best value.
    """
    trained, best = 0, math.inf
    for value, _ in steps(study, seed, concurrent):
        trained += 0 if value is None else EVERY
        best = min(best, math.inf if value is None or math.isnan(value) else value)
        if until(best):
            break
    return trained, best


def steps(study: SearchStudy, seed: int, concurrent: int) -> Iterator[tuple[float | None, float]]:
    """Run a search's trials step by step; after the first ones have begun, and after each measurement.

    Yields:
        The value that was measured, None at first, and the images that running trials have trained with since
        their last measurements.
    """
    going: list[tuple[float, int, int, Curve]] = []
    clock, value = 0.0, None
    while True:
        while len(going) < concurrent and (trial := study.next()) is not None:
            one = curve(trial.params, noise(seed, trial.number))
            heapq.heappush(going, (clock + _pace(one), trial.number, EVERY, one))
        yield value, sum(EVERY * (1 - (end - clock) / _pace(one)) for end, _, _, one in going)
        if not going:
            return
        clock, number, images, one = heapq.heappop(going)
        value = one.at(images)
        study.measure(number, images, {"fd": value, "coverage": one.coverage_at(images)})
        if math.isnan(value):
            study.fail(number, "NonFiniteError")
        elif study.report(number, images, value):
            study.prune(number)
        elif images >= LENGTH:
            study.complete(number)
        else:
            heapq.heappush(going, (clock + _pace(one), number, images + EVERY, one))


def _pace(one: Curve) -> float:
    """Return how long it takes a trial to its next measurement."""
    return 1 + 0.2 * (one.seed % 1000) / 1000


def config(**more: Any) -> SearchConfig:
    """Return a search's configuration."""
    return SearchConfig(space=KEYS, **more)
