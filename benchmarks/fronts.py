"""What a search with two objectives finds, on simulated curves of distance and coverage, at equal images.

Random search and Optuna's NSGA-II train all their trials to their end; the search, TPE and rungs by rank,
trains with as many images. Fronts are compared by the hypervolume beyond a reference point.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import mean, median

import optuna
from optuna.samplers import NSGAIISampler
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from benchmarks import simulated
from gan_dist.search.objectives import released_point
from gan_dist.search.study import SearchStudy

SEEDS, TRIALS, CONCURRENT = 20, 30, 4
GENERATION = 10
"""Trials of a generation of NSGA-II, so that there are several."""
OBJECTIVES = {"fd": "min", "coverage": "max"}
REFERENCE = (13.6, 0.31)
"""The worst distance and coverage on the true front, 12.8 and 0.37 (the other ends have 5.1 and 0.94), and a
tenth of its range beyond: Ishibuchi et al. 2018, https://doi.org/10.1162/evco_a_00226."""
Point = tuple[float, float]
"""A distance and a coverage."""


def run(*, quick: bool = False) -> dict[str, object]:
    """Return the hypervolume of the search's fronts over that of the others, of all seeds together.

    `rungs` is random search whose trials are stopped early; `wide` has the medians of random search's trials
    as the reference.
    """
    seeds, trials = (2, 10) if quick else (SEEDS, TRIALS)
    images = trials * simulated.LENGTH
    plain = {"algorithm": "random", "scheduler": "none"}
    fronts = [
        {
            "random": _search(seed, images, trials=3 * trials, **plain),
            "nsga2": _nsga2(seed, images),
            "rungs": _search(seed, images, trials=20 * trials, algorithm="random"),
            "search": _search(seed, images, trials=20 * trials),
        }
        for seed in range(seeds)
    ]
    volumes = {name: [hypervolume(one[name], REFERENCE) for one in fronts] for name in fronts[0]}
    wide = {name: [hypervolume(one[name], _medians(one["random"])) for one in fronts] for name in fronts[0]}
    found = volumes["search"]
    return {
        "hypervolume_vs_random": _ratio(found, volumes["random"]),
        "hypervolume_vs_nsga2": _ratio(found, volumes["nsga2"]),
        "hypervolume_of_rungs_vs_random": _ratio(volumes["rungs"], volumes["random"]),
        "hypervolume_wins_of_random": sum(a > b for a, b in zip(found, volumes["random"], strict=True)),
        "hypervolume_wins_of_nsga2": sum(a > b for a, b in zip(found, volumes["nsga2"], strict=True)),
        "hypervolume_wide_vs_random": _ratio(wide["search"], wide["random"]),
        "hypervolume_wide_vs_nsga2": _ratio(wide["search"], wide["nsga2"]),
        "hypervolumes": volumes,
        "hypervolume_trials": median(len(one["search"]) for one in fronts),
    }


def hypervolume(points: Iterable[Point], reference: Point) -> float:
    """Return the area that is worse than some point and better than the reference, lower distances first."""
    area, covered = 0.0, reference[1]
    for distance, coverage in sorted(points):
        if distance < reference[0] and coverage > covered:
            area += (reference[0] - distance) * (coverage - covered)
            covered = coverage
    return area


def _ratio(volumes: Iterable[float], others: Iterable[float]) -> float:
    below = mean(others)
    return mean(volumes) / below if below else math.inf


def _medians(points: Iterable[Point]) -> Point:
    distances, coverages = zip(*points, strict=True)
    return median(distances), median(coverages)


def _search(seed: int, images: int, **more: object) -> list[Point]:
    search = simulated.config(seed=seed, objectives=OBJECTIVES, **more)
    study = SearchStudy(
        InMemoryStorage(), "bench", simulated.space(), search, simulated.EVERY, simulated.LENGTH
    )
    for measurements, _ in enumerate(simulated.steps(study, seed, CONCURRENT)):
        if measurements * simulated.EVERY >= images:
            break
    points = (released_point(trial) for trial in study.trials())
    return [(point["fd"], point["coverage"]) for point in points if point]


def _nsga2(seed: int, images: int) -> list[Point]:
    """Return what Optuna's NSGA-II finds, one trial after another; those that diverge fail."""
    sampler = NSGAIISampler(seed=seed, population_size=GENERATION)
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=sampler)
    points: list[Point] = []
    while images > 0:
        trial = study.ask()
        simulated.space().suggest(trial)
        curve = simulated.curve(trial.params, simulated.noise(seed, trial.number))
        steps = range(simulated.EVERY, simulated.LENGTH + 1, simulated.EVERY)
        measured = [at for at in steps if not math.isnan(curve.at(at))]
        images -= min(simulated.LENGTH, len(measured) * simulated.EVERY + simulated.EVERY)
        if measured:
            best = min(measured, key=curve.at)
            points.append((curve.at(best), curve.coverage_at(best)))
        if len(measured) == len(steps):
            study.tell(trial, points[-1])
        else:
            study.tell(trial, state=TrialState.FAIL)
    return points
