"""How well forecasts of a search hold, and how far it goes beyond its budget.

Searches differ in their sampler, scheduler, number of trials and of
trials at a time. The forecasts' constants were chosen on curves of other shapes: here they are judged.
"""

from __future__ import annotations

import math
from statistics import mean, median
from tempfile import TemporaryDirectory

import numpy as np
from optuna.storages import InMemoryStorage

from benchmarks import simulated
from gan_dist.config import SearchConfig
from gan_dist.config.search import BudgetConfig
from gan_dist.search.budget import Ledger
from gan_dist.search.forecast import Forecast, forecast, mean_images
from gan_dist.search.outlook import LEARNING, curve_of
from gan_dist.search.study import SearchStudy

SEARCHES, OVERSHOOT_SEEDS = 200, 20
MOMENTS = (0.25, 0.5, 0.75)
"""Shares of the trials that have ended when a forecast is made."""


def run(*, quick: bool = False) -> dict[str, object]:
    """Return the figures; with `quick` of few searches."""
    return {**intervals(quick=quick), **overshoot(quick=quick)}


def intervals(*, quick: bool) -> dict[str, object]:
    """Return in how many searches a forecast's intervals have held, by the moment at which it was made."""
    held: dict[float, list[bool]] = {moment: [] for moment in MOMENTS}
    images: list[bool] = []
    errors: list[float] = []
    widths: list[float] = []
    for seed in range(6 if quick else SEARCHES):
        made, value, trained = forecasts_of(seed)
        for moment, one in made.items():
            images.append(one.images.low <= trained <= one.images.high)
            if one.value is not None:
                held[moment].append(one.value.low * (1 - 1e-9) <= value <= one.value.high * (1 + 1e-9))
                errors.append(abs(math.log(one.value.middle / value)))
                widths.append(math.log(one.value.high / one.value.low))
    every = [one for moment in held.values() for one in moment]
    return {
        "forecast_holds": mean(every),
        "forecast_holds_at": {f"{moment:g}": mean(found) for moment, found in held.items() if found},
        "forecast_images_hold": mean(images),
        "forecast_error": math.expm1(median(errors)),
        "forecast_width": math.expm1(median(widths)),
        "forecasts": len(every),
    }


def search_of(seed: int) -> tuple[SearchConfig, int]:
    """Return one of many searches, and its number of trials at a time."""
    draw = np.random.default_rng([31, seed])
    search = simulated.config(
        trials=int(draw.choice([20, 40, 60])),
        algorithm=str(draw.choice(["tpe", "tpe", "random"])),
        scheduler=str(draw.choice(["asha", "asha", "none", "median"])),
        seed=1000 + seed,
    )
    return search, int(draw.choice([2, 4, 8]))


def open_study(search: SearchConfig) -> SearchStudy:
    """Return the study of a simulated search, in memory."""
    storage = InMemoryStorage()
    return SearchStudy(storage, "bench", simulated.space(), search, simulated.EVERY, simulated.LENGTH)


def outlook(study: SearchStudy, search: SearchConfig, images_left: float = math.inf) -> Forecast:
    """Return the forecast of a simulated search at this moment of it."""
    ended, running = ([curve_of(one) for one in some] for some in (study.ended(), study.running()))
    return forecast(
        ended,
        running,
        study.unfinished - len(running),
        every=simulated.EVERY,
        length=simulated.LENGTH,
        mean=mean_images(search, simulated.EVERY, simulated.LENGTH),
        images_left=images_left,
        learns=search.algorithm in LEARNING,
    )


def forecasts_of(seed: int) -> tuple[dict[float, Forecast], float, int]:
    """Return a search's forecasts by moment, its lowest value and the images of its trials."""
    search, concurrent = search_of(seed)
    study, made, best = open_study(search), {}, math.inf
    moments = iter(MOMENTS)
    moment = next(moments, None)
    for value, _ in simulated.steps(study, seed, concurrent):
        best = best if value is None or math.isnan(value) else min(best, value)
        while moment is not None and len(study.ended()) >= moment * search.trials:
            made[moment] = outlook(study, search)
            moment = next(moments, None)
    return made, best, study.images


def overshoot(*, quick: bool) -> dict[str, object]:
    """Return the images beyond a budget, in intervals between measurements for each running trial."""
    found = [_overshoot(seed) for seed in range(2 if quick else OVERSHOOT_SEEDS)]
    return {"overshoot_intervals_a_trial": max(found), "overshoot_median": median(found)}


def _overshoot(seed: int) -> float:
    search, concurrent = search_of(seed)
    search = search.model_copy(update={"trials": 10_000})
    study, limit = open_study(search), 500_000 + 1000 * seed
    with TemporaryDirectory(prefix="gan-dist-bench-") as folder:
        ledger = Ledger(folder, BudgetConfig(images=limit), 0)
        for _, unmeasured in simulated.steps(study, seed, concurrent):
            if ledger.reached(study.images):
                return (study.images + unmeasured - limit) / simulated.EVERY / concurrent
    raise AssertionError("the budget was not reached")
