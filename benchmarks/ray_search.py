"""The cost of one more trial under Ray Tune, and whole searches: for `python -m benchmarks search`."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median
from tempfile import TemporaryDirectory

from optuna.trial import Trial

from gan_dist.cluster.connect import connect
from gan_dist.cluster.tune import driver
from gan_dist.search.display import SearchView
from gan_dist.search.plan import Plan, make_plan
from gan_dist.search.start import begin
from gan_dist.search.study import SearchStudy
from gan_dist.search.study_storage import study_storage
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from gan_dist.training.preflight import total_images

WARM = 4
"""Trials before the actors, their libraries and caches are there."""
SMALL = [
    *("model.width=4", "model.max_width=8", "train.batch_size=32", "eval.samples=64"),
    *("train.kimg=0.128", "eval.every_kimg=0.064", "search.scheduler=none", "search.concurrent=1"),
    "search.space={optim.g.lr: {log: [1.0e-4, 1.0e-3]}}",
]


def seconds_per_trial(*, quick: bool) -> dict[str, float]:
    """Return the median seconds from the end of a trial to that of the next, and what they are made of.

    `seconds_per_trial` is what a trial costs beyond `own_seconds`, those of the same run without Ray.
    """
    count = WARM + (2 if quick else 16)
    with TemporaryDirectory(prefix="gan-dist-bench-") as folder:
        plan = make_plan("search-digits", [*SMALL, f"storage={folder}", f"search.trials={count}"])
        begin(plan, "fd_digits")
        study = SearchStudy(study_storage(plan.uri, None), "bench", plan.space, plan.search, plan.grace)
        ends: list[float] = []

        def changed() -> None:
            ended = sum(trial.state.is_finished() for trial in study.trials())
            ends.extend([time.perf_counter()] * (ended - len(ends)))

        driver.run(plan, study, "fd_digits", changed)
        own = _seconds_without_ray(plan, count)
    steps = [after - before for before, after in zip(ends[WARM - 1 :], ends[WARM:], strict=False)]
    each = median(steps)
    return {"seconds_per_trial": each - own, "trial_seconds": each, "own_seconds": own}


def _seconds_without_ray(plan: Plan, count: int) -> float:
    """Return the median seconds of such a run in this process."""
    times = []
    for number in range(count, 2 * count):
        config = plan.trial(number, {"optim.g.lr": 2e-4})
        began = time.perf_counter()
        train(config, LocalContext(config.run_uri))
        times.append(time.perf_counter() - began)
    return median(times[WARM:])


SEEDS, TRIALS = 2, 20
MORE = 10
"""The search may have so many times the trials, as long as it trains with fewer images than random search."""


def images_vs_random(*, quick: bool) -> dict[str, object]:
    """Return how many images the search trains with until it is as good as random search, over those of it.

    All are searches of the preset `search-digits` as `gan-dist tune` runs them. Random search trains all its
    trials to their end. The search, TPE and ASHA, ends when it has found a value as low, or has trained with
    as many images: then its ratio is 1 or a little more, and it was not `as_good`. It is run twice: from the
    same draws, which makes its first ten trials those of random search, and from `other` ones.
    """
    seeds, trials = (1, 3) if quick else (SEEDS, TRIALS)
    length = ["train.kimg=6.4", "eval.every_kimg=1.6", "model.width=4", "eval.samples=64"] if quick else []
    with connect():
        plain = [_random(seed, trials, length) for seed in range(seeds)]
        same = [_search(one, seed, trials, length) for seed, one in enumerate(plain)]
        other = [_search(one, seed + OTHER, trials, length) for seed, one in enumerate(plain)]
    return {**_compared("real", plain, same), **_compared("real_other", plain, other), "trials": trials}


OTHER = 1000
"""What makes another seed of a seed."""


def _compared(name: str, plain: list[Spent], search: list[Spent]) -> dict[str, object]:
    pairs = list(zip(plain, search, strict=True))
    ratios = [used.images / one.images for one, used in pairs]
    return {
        f"{name}_images_vs_random": median(ratios),
        f"{name}_ratios": ratios,
        # Over the images after which random search had found its best: it learns that at its end only.
        f"{name}_ratios_to_its_best": [used.images / one.best_at for one, used in pairs],
        f"{name}_as_good": [used.best <= one.best for one, used in pairs],
        f"{name}_searches": [{"random": vars(one), "search": vars(used)} for one, used in pairs],
    }


@dataclass(frozen=True)
class Spent:
    """What a search has come to."""

    images: int
    """Trained with, by all trials; those that run when it ends count to their next measurement."""
    best: float
    best_at: int
    """Images, of all trials, after which the best was found."""
    trials: int
    stopped: int
    failed: int


def _random(seed: int, trials: int, length: list[str]) -> Spent:
    return _searched(
        [*length, f"search.seed={seed}", "search.algorithm=random", "search.scheduler=none"], trials
    )


def _search(plain: Spent, seed: int, trials: int, length: list[str]) -> Spent:
    def enough(best: float, images: int) -> bool:
        return best <= plain.best or images >= plain.images

    return _searched([*length, f"search.seed={seed}"], MORE * trials, enough)


def _searched(
    settings: list[str], trials: int, enough: Callable[[float, int], bool] = lambda *_: False
) -> Spent:
    with TemporaryDirectory(prefix="gan-dist-bench-") as folder:
        plan = make_plan("search-digits", [*settings, f"storage={folder}", f"search.trials={trials}"])
        begin(plan, "fd_digits")
        study = _Until(plan, enough)
        with SearchView(
            study, trials, total_images(plan.config.train, plan.config.optim), "fd_digits"
        ) as view:
            view.print(f"{plan.search.algorithm}, {plan.search.scheduler}, seed {plan.search.seed}")
            driver.run(plan, study, "fd_digits", view.update)
        return study.spent()


class _Until(SearchStudy):
    """A study that ends, all its trials with it, once it has come to enough."""

    def __init__(self, plan: Plan, enough: Callable[[float, int], bool]) -> None:
        database = study_storage(plan.uri, None)
        length = total_images(plan.config.train, plan.config.optim)
        super().__init__(database, "bench", plan.space, plan.search, plan.grace, length)
        self._enough, self._every = enough, round(1000 * plan.config.eval.every_kimg)
        self._steps: dict[int, int] = {}
        self._best, self._best_at = math.inf, 0
        self._over: int | None = None

    def next(self) -> Trial | None:
        return super().next() if self._over is None else None

    def report(self, number: int, step: int, value: float) -> bool:
        stop = super().report(number, step, value)
        if self._over is not None:
            return True
        self._steps[number] = step
        images = sum(self._steps.values())
        if value < self._best:
            self._best, self._best_at = value, images
        if self._enough(self._best, images):
            self._over = images + self._every * (len(self._running) - 1)
        return stop or self._over is not None

    def spent(self) -> Spent:
        states = [trial.state.name for trial in self.trials()]
        images = sum(self._steps.values()) if self._over is None else self._over
        stopped, failed = states.count("PRUNED"), states.count("FAIL")
        return Spent(images, self._best, self._best_at, len(states), stopped, failed)
