"""What of a search cannot be, or would be ignored, by its configuration alone."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from datetime import datetime

from optuna.distributions import CategoricalDistribution

from gan_dist.config import EvalConfig, SearchConfig, TrainConfig
from gan_dist.config.schedules import CHANGEABLE, ON_OR_OFF, listed
from gan_dist.config.search import BudgetConfig
from gan_dist.core.errors import Problem
from gan_dist.search.algorithms import POPULATIONS
from gan_dist.search.budget import end_of
from gan_dist.search.space import Space
from gan_dist.search.space.distributions import all_values, extreme_values

MOST_INTERVALS = 10_000
"""Comparisons of a population's members; each interval of a member is a run."""
_BUDGET = "search.budget"
_HALVING = ("asha", "hyperband")
_READ_BY = {
    "grace_kimg": (*_HALVING, "median", *POPULATIONS),
    "reduction": _HALVING,
    "perturb_kimg": POPULATIONS,
    "quantile": POPULATIONS,
    "synch": POPULATIONS,
}
"""Keys of `search` that only some schedulers read."""


def ignored(search: SearchConfig, space: Space, scheduled: Iterable[str], kimg: float) -> Iterator[Problem]:
    """Yield what is set and would have no effect: `scheduled` keys of trials, whose length is `kimg`."""
    for key, schedulers in _READ_BY.items():
        value, default = getattr(search, key), SearchConfig.model_fields[key].default
        if search.scheduler not in schedulers and value != default:
            what = (
                f"search.{key}={str(value).lower()} is for {', '.join(schedulers)}; "
                f"search.scheduler={search.scheduler} ignores it"
            )
            yield Problem(what, "leave it out", (f"search.{key}", "search.scheduler"))
    if search.scheduler in _READ_BY["grace_kimg"] and (search.grace_kimg or 0) >= kimg:
        stops = "lets none copy" if search.scheduler in POPULATIONS else "stops none"
        what = (
            f"search.grace_kimg={search.grace_kimg:g}: trials end after train.kimg={kimg:g}, so "
            f"that search.scheduler={search.scheduler} {stops}"
        )
        keys = ("search.grace_kimg", "train.kimg", "search.scheduler")
        yield Problem(what, "lower it, or set search.scheduler=none", keys)
    for key in space.distributions.keys() & {*scheduled}:
        what = f"{key} has values by kimg, and search.space gives each trial one value in their place"
        yield Problem(what, f"give {key} one value, or take it out of the space", (key, "search.space"))


def impossible(search: SearchConfig, kimg: float, gpus: float) -> Iterator[Problem]:
    """Yield what is wrong with a budget before anything starts: of trials of `kimg` with `gpus` GPUs."""
    budget, length = search.budget or BudgetConfig(), round(1000 * kimg)
    if budget.images is not None and budget.images < length:
        yield Problem(
            f"{_BUDGET}.images={budget.images} is less than one whole trial: train.kimg={kimg:g} is "
            f"{length} images",
            f"give at least {length}, or lower train.kimg",
            (f"{_BUDGET}.images", "train.kimg"),
        )
    if budget.gpu_hours is not None and not gpus:
        yield Problem(
            f"{_BUDGET}.gpu_hours={budget.gpu_hours:g}: trials reserve no GPU (scale.gpus_per_worker=0), so "
            "that it would never be reached",
            "use images, dollars or until",
            (f"{_BUDGET}.gpu_hours", "scale.gpus_per_worker"),
        )
    if budget.dollars is not None and search.prices is None:
        yield Problem(
            f"{_BUDGET}.dollars={budget.dollars:g} needs the price of an hour of each node type",
            "set search.prices to a YAML file with lines such as gpu-worker: 1.2",
            (f"{_BUDGET}.dollars", "search.prices"),
        )
    if budget.until is not None:
        try:
            end_of(budget.until, datetime.now().astimezone())
        except ValueError as error:
            what = f"{_BUDGET}.until={budget.until} is no time ({error})"
            yield Problem(what, "give one such as 06:00 or 2026-12-24T06:00", (f"{_BUDGET}.until",))


def unsuitable(search: SearchConfig, space: Space, evaluation: EvalConfig) -> Iterator[Problem]:
    """Yield what algorithm and scheduler cannot do with a space; `evaluation` is the section of trials."""
    every = round(1000 * evaluation.every_kimg)
    algorithm = f"search.algorithm={search.algorithm}"
    if search.objectives:
        for key, value, able in (
            ("algorithm", search.algorithm, ("tpe", "gp", "qmc", "random", "grid")),
            ("scheduler", search.scheduler, ("asha", "none")),
            ("replicates", search.replicates, (0,)),
        ):
            if value not in able:
                yield Problem(
                    f"search.{key}={value} is for one objective, and there is search.objectives",
                    f"use search.{key}={' or '.join(map(str, able))}",
                    (f"search.{key}", "search.objectives"),
                )
    if search.algorithm in ("gp", "cmaes", "qmc") and space.conditions:
        yield Problem(
            f"{algorithm} needs the same keys in every trial; not so {', '.join(space.conditions)}",
            "use search.algorithm=tpe, or vary only keys without `when`",
            ("search.algorithm", "search.space"),
        )
    choices = [key for key, at in space.distributions.items() if isinstance(at, CategoricalDistribution)]
    if search.algorithm == "cmaes" and choices:
        yield Problem(
            f"{algorithm} varies numbers, and {', '.join(choices)} have choices",
            "use search.algorithm=tpe or gp, or give ranges",
            ("search.algorithm", "search.space"),
        )
    batch_size = space.distributions.get("train.batch_size")
    sizes = all_values(batch_size) if batch_size else ()
    odd = [size for size in sizes or () if every % int(size or 1)]
    if search.scheduler == "median" and odd:
        yield Problem(
            f"search.scheduler=median compares trials after the same number of images; with train.batch_size="
            f"{odd[0]} none is measured after exactly eval.every_kimg={every / 1000:g}",
            "use search.scheduler=asha, or batch sizes that divide eval.every_kimg",
            ("search.scheduler", "search.space"),
        )


def unsuitable_population(
    search: SearchConfig, space: Space, train: TrainConfig, evaluation: EvalConfig
) -> Iterator[Problem]:
    """Yield what a population cannot do; `train` and `evaluation` are sections of its members."""
    scheduler = f"search.scheduler={search.scheduler}"
    if fixed := [key for key in space.distributions if key not in CHANGEABLE]:
        what = f"{scheduler} changes values within a run, and {', '.join(fixed)} cannot change"
        yield Problem(what, f"{listed()}; or use search.scheduler=asha", ("search.space", *fixed))
    for key in ON_OR_OFF:
        values = extreme_values(space.distributions[key]) if key in space.distributions else (1,)
        if any(not value for value in values):
            what = f"{scheduler}: {key} may come to be 0, and a penalty acts in the whole run or in none"
            yield Problem(what, "begin its range above 0", ("search.space", key))
    if space.conditions:
        what = f"{scheduler} needs the same keys in every member; not so {', '.join(space.conditions)}"
        yield Problem(what, "vary only keys without `when`", ("search.scheduler", "search.space"))
    if search.most_trials == math.inf:
        what = f"{scheduler} has a population of search.trials, and only a budget is given"
        yield Problem(what, "set search.trials", ("search.trials", "search.budget"))
    if search.trials < 2:
        what = f"search.trials={search.trials} is the size of the population, of which some copy others"
        yield Problem(what, "use 2 or more", ("search.trials",))
    if search.algorithm in ("grid", "gp", "cmaes"):
        algorithm = f"search.algorithm={search.algorithm}"
        what = f"{algorithm} tries all combinations, and {scheduler} has search.trials members"
        if search.algorithm != "grid":
            what = f"{algorithm} learns from measurements, and {scheduler} draws values before there are any"
        keys = ("search.algorithm", "search.scheduler")
        yield Problem(what, "use tpe, random or qmc, which draw the members' first values", keys)
    if search.replicates:
        what = f"search.replicates={search.replicates} repeats trials, and a member's values change"
        remedy = "set it to 0, and repeat the search's lineage.yaml with another seed"
        yield Problem(what, remedy, ("search.replicates", "search.scheduler"))
    for key in ("patience", "target"):
        if (value := getattr(evaluation, key)) is not None:
            what = f"eval.{key}={value:g} ends runs early, and {scheduler} compares members to the end"
            yield Problem(what, f"set eval.{key}=null", (f"eval.{key}", "search.scheduler"))
    every = search.perturb_kimg or evaluation.every_kimg
    share = every / evaluation.every_kimg
    if abs(share - round(share)) > 1e-9:
        below = max(1, int(share)) * evaluation.every_kimg
        what = f"search.perturb_kimg={every:g} / eval.every_kimg={evaluation.every_kimg:g} = {share:g}"
        keys = ("search.perturb_kimg", "eval.every_kimg")
        yield Problem(f"{what}: members are compared by a measurement", f"use {below:g}", keys)
    if train.kimg / every > MOST_INTERVALS:
        what = f"train.kimg={train.kimg:g} / {every:g} = {train.kimg / every:.3g} comparisons of the members"
        remedy = f"raise search.perturb_kimg: there are {MOST_INTERVALS} at most"
        yield Problem(what, remedy, ("search.perturb_kimg", "train.kimg", "eval.every_kimg"))
    if every >= train.kimg:
        what = f"members are compared every {every:g} kimg, and end after train.kimg={train.kimg:g}"
        given = ("search.perturb_kimg", "train.kimg", "eval.every_kimg")
        yield Problem(what, "lower search.perturb_kimg and eval.every_kimg", given)
