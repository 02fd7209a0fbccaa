"""A population on a simulated optimum that moves: the best rate falls as training goes on.

The logarithm of a distance falls in each interval by `FALL` times a bell of log10(rate) around the optimum,
which moves from 10^-3 to 10^-4 and is that of the interval's middle. Measurements have 1.5 % of noise.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from optuna.storages import BaseStorage, InMemoryStorage

from gan_dist.config import SearchConfig
from gan_dist.search.population import Branch, Member, Population
from gan_dist.search.space.parse import parse
from gan_dist.search.study import SearchStudy

EVERY, INTERVALS = 2_000, 30
ENDS = [EVERY * (number + 1) for number in range(INTERVALS)]
KEY = "optim.g.lr"
UNTRAINED, FALL, WIDTH, NOISE = 300.0, 0.25, 0.4, 0.015


def config(seed: int, scheduler: str = "pbt", trials: int = 8, **more: Any) -> SearchConfig:
    """Return a search over the rate."""
    settings = {"space": {KEY: {"log": [1e-5, 1e-2]}}, "trials": trials, "scheduler": scheduler}
    return SearchConfig.model_validate({**settings, "algorithm": "random", "seed": seed, **more})


def fall(rate: float, interval: int) -> float:
    """Return by how much the logarithm of a distance falls in an interval, which counts from 0."""
    optimum = -3.0 - (interval + 0.5) / INTERVALS
    return FALL * math.exp(-((math.log10(rate) - optimum) ** 2) / (2 * WIDTH**2))


def best_constant() -> float:
    """Return the lowest distance at the end with any constant rate, without noise."""
    rates = np.logspace(-5, -2, 601)
    return min(UNTRAINED * math.exp(-sum(fall(rate, i) for i in range(INTERVALS))) for rate in rates)


class Simulation:
    """The distances of branches, as functions of their lineages."""

    def __init__(self, search: SearchConfig, storage: BaseStorage) -> None:
        self.search = search
        self.space = parse(search.space, {})
        self.study = SearchStudy(storage, "bench", self.space, search, EVERY)
        self.population = Population(self.study, search, self.space, ENDS, EVERY)

    def branches(self) -> dict[str, Branch]:
        """Return the branches of all members by name."""
        return {one.name: one for trial in self.study.trials() for one in Member.of(trial).branches}

    def distance(self, name: str, images: int) -> float:
        """Return the distance of a branch after so many images, without noise."""
        branches, rates = self.branches(), {}
        branch: Branch | None = branches[name]
        end = images
        while branch is not None:
            for interval in range(branch.images // EVERY, end // EVERY):
                rates[interval] = float(branch.values[KEY])  # type: ignore[arg-type]
            end, branch = branch.images, branches[branch.parent] if branch.parent else None
        return UNTRAINED * math.exp(-sum(fall(rate, interval) for interval, rate in rates.items()))

    def run(self, on_step: Callable[[], None] = lambda: None) -> None:
        """Train the population to its end, one task after another."""
        while self.study.unfinished:
            self.population.decide()
            task = self.population.next()
            if task is None:
                return
            on_step()
            noise = np.random.default_rng([self.search.seed, task.branch.member, task.end]).normal(0, NOISE)
            value = self.distance(task.branch.name, task.end) * math.exp(noise)
            self.study.report(task.branch.member, task.end, value)


def figures(seeds: int, scheduler: str) -> Mapping[str, object]:
    """Return in how many of `seeds` searches the best member is better than the best constant rate."""
    constant, found = best_constant(), []
    for seed in range(seeds):
        simulation = Simulation(config(seed, scheduler), InMemoryStorage())
        simulation.run()
        found.append(min(simulation.distance(name, ENDS[-1]) for name in simulation.branches()))
    return {
        f"{scheduler}_better_than_best_constant": sum(value < constant for value in found),
        f"{scheduler}_distance_median": float(np.median(found)),
        "best_constant_distance": constant,
    }
