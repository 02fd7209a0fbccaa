"""What a search saves, on simulated learning curves, and what a trial costs: of the study, and under Ray.

For each seed, random search without stopping trains all its trials to their end; then the search, TPE and
ASHA, is run until it has found a value as good, and the images that both have trained with are compared.
`forecasts.py` measures forecasts and budgets, `fronts.py` searches with two objectives,
`simulated_population.py` populations that follow an optimum that moves, against the best constant value. With
`--real` images are compared of real runs on the handwritten digits instead, and nothing else; with
`--population` a population of four is compared with ASHA there.
"""

from __future__ import annotations

import resource
import time
from statistics import median
from tempfile import TemporaryDirectory

from optuna.storages import BaseStorage, InMemoryStorage

from benchmarks import forecasts, fronts, simulated, simulated_population
from gan_dist.config import SearchConfig
from gan_dist.search.study import SearchStudy
from gan_dist.search.study_storage import study_storage

SEEDS, TRIALS, CONCURRENT = 20, 100, 4
MANY, ENDS = 500, 100
"""Trials of a study whose cost is measured, and how many of the first and of the last."""


def run(*, quick: bool = False, real: bool = False, population: bool = False) -> dict[str, object]:
    """Return the figures; with `quick` of few trials, with `real` or `population` of real runs."""
    from benchmarks import digits_population, ray_search

    if population:
        return digits_population.run(quick=quick)
    if real:
        return ray_search.images_vs_random(quick=quick)
    seeds, trials, many, ends = (2, 20, 60, 20) if quick else (SEEDS, TRIALS, MANY, ENDS)
    growth = _growth(many, ends)  # first: it looks at the most memory that was ever in use
    ratios = [_images_vs_random(seed, trials) for seed in range(seeds)]
    return {
        "images_vs_random": median(ratios),
        "images_vs_random_range": (min(ratios), max(ratios)),
        "seeds": seeds,
        **simulated_population.figures(seeds, "pbt"),
        **simulated_population.figures(max(2, seeds // 4), "pb2"),
        **growth,
        **forecasts.run(quick=quick),
        **fronts.run(quick=quick),
        **ray_search.seconds_per_trial(quick=quick),
    }


def _images_vs_random(seed: int, trials: int) -> float:
    """Return the images until the search is as good as random search, over those of random search.

    The search may have ten times as many trials; where that is not enough, the ratio is what it has used.
    """
    plain = simulated.config(trials=trials, algorithm="random", scheduler="none", seed=seed)
    spent, target = simulated.run(_open_study(plain, InMemoryStorage()), seed, CONCURRENT)
    eager = simulated.config(trials=10 * trials, seed=seed)
    used, _ = simulated.run(
        _open_study(eager, InMemoryStorage()), seed, CONCURRENT, until=lambda best: best <= target
    )
    return used / spent


def _growth(many: int, ends: int) -> dict[str, object]:
    """Return how the cost of a trial, with its journal on the disk, and memory grow with their number."""
    with TemporaryDirectory(prefix="gan-dist-bench-") as folder:
        study = _open_study(simulated.config(trials=many), study_storage(folder, None))
        times: list[float] = []

        def ended(_best: float) -> bool:
            done = many - study.unfinished - CONCURRENT
            while len(times) <= done:
                times.append(time.perf_counter())
            return False

        began = time.perf_counter()
        memory = _memory_mb()
        simulated.run(study, 0, CONCURRENT, until=ended)
        first, last = times[ends] - began, times[-1] - times[-1 - ends]
    return {
        "growth": last / first,
        "study_seconds_per_trial": last / ends,
        "driver_memory_growth_mb": _memory_mb() - memory,
    }


def _open_study(search: SearchConfig, storage: BaseStorage) -> SearchStudy:
    return SearchStudy(storage, "bench", simulated.space(), search, simulated.EVERY, simulated.LENGTH)


def _memory_mb() -> float:
    """Return the most memory that this process has had, in 10^6 bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
