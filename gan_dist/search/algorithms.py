"""Optuna's samplers and pruners, by the names of `search.algorithm` and `search.scheduler`."""

from __future__ import annotations

import io
import math
import pickle  # noqa: TID251  # for a subclass that refuses all but numbers
import warnings
from collections.abc import Iterator
from typing import Any

from optuna.distributions import CategoricalDistribution
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from gan_dist.artifacts.objectives import Objectives
from gan_dist.config import EvalConfig, SearchConfig, TrainConfig
from gan_dist.config.schedules import CHANGEABLE, ON_OR_OFF, listed
from gan_dist.core.errors import Problem, StorageError
from gan_dist.search.objectives import RankedSampler
from gan_dist.search.space import Space
from gan_dist.search.space.distributions import all_values, extreme_values

POPULATIONS = ("pbt", "pb2")
"""Schedulers whose trials are members of a population."""
MIN_COMPLETE = 4
"""Trials that must be complete before `median` stops any."""


def make_sampler(search: SearchConfig, seed: int) -> BaseSampler:
    """Return the sampler of one trial.

    All that a sampler has learned is in the study, so each trial has a new one, with a seed of its own: a
    process that continues a search draws what the first one would have drawn. The seed is below 2**32.
    """
    with warnings.catch_warnings():
        # TPE's `group` and the class QMCSampler are experimental; releases are pinned.
        warnings.simplefilter("ignore", ExperimentalWarning)
        match search.algorithm:
            case "tpe":
                tpe = TPESampler(seed=seed, multivariate=True, group=True, constant_liar=True)
                objectives = Objectives.parse(search.objectives)
                return tpe if objectives is None else RankedSampler(tpe, objectives)
            case "gp":
                return GPSampler(seed=seed)
            case "cmaes":
                return _CmaEsSampler(seed=seed, warn_independent_sampling=False)
            case "qmc":
                # One sequence for the whole search: the study counts how much of it was used.
                first = RandomSampler(seed)
                return QMCSampler(scramble=True, seed=search.seed, independent_sampler=first)
            case "random" | "grid":  # a grid's points are enqueued
                return RandomSampler(seed)


def make_pruner(search: SearchConfig, grace: int, length: float) -> BasePruner:
    """Return what stops trials of `length` images, or infinity, but not before `grace`; steps are images."""
    grace = max(1, grace)
    match search.scheduler:
        case "asha":
            return SuccessiveHalvingPruner(grace, search.reduction)
        case "hyperband":
            longest = max(grace, int(length)) if math.isfinite(length) else "auto"
            return HyperbandPruner(grace, longest, search.reduction)
        case "median":
            return MedianPruner(MIN_COMPLETE, grace, n_min_trials=MIN_COMPLETE)
        case "none" | "pbt" | "pb2":
            return NopPruner()


def unsuitable(search: SearchConfig, space: Space, every: int) -> Iterator[Problem]:
    """Yield what algorithm and scheduler cannot do with a space; `every` is images between measurements."""
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
    if search.algorithm == "grid":
        keys = ("search.algorithm", "search.scheduler")
        what = f"search.algorithm=grid tries all combinations, and {scheduler} has search.trials members"
        yield Problem(what, "use another algorithm, which draws their first values", keys)
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
    if every >= train.kimg:
        what = f"members are compared every {every:g} kimg, and end after train.kimg={train.kimg:g}"
        given = ("search.perturb_kimg", "train.kimg", "eval.every_kimg")
        yield Problem(what, "lower search.perturb_kimg and eval.every_kimg", given)


class _CmaEsSampler(CmaEsSampler):
    """Optuna's CMA-ES, which keeps its state in the study as a pickle; here only numbers come out of it."""

    def _restore_optimizer(self, completed_trials: list[FrozenTrial]) -> Any:
        for trial in reversed(completed_trials):
            own = self._attr_key_optimizer
            if attrs := {key: value for key, value in trial.system_attrs.items() if key.startswith(own)}:
                return _Numbers(io.BytesIO(bytes.fromhex(self._concat_optimizer_attrs(attrs)))).load()
        return None


class _Numbers(pickle.Unpickler):
    """Unpickles CMA-ES's state, and refuses all else: whoever can write a study could run code here."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module.partition('.')[0]}.{name}" not in _ALLOWED:
            raise StorageError(
                f"the study's state of search.algorithm=cmaes has {module}.{name}, which is no part of it",
                "use search.algorithm=tpe, and find out who has written to the study",
                keys=("search.algorithm",),
            )
        return super().find_class(module, name)


_ALLOWED = {"cmaes.CMA", "numpy._reconstruct", "numpy.ndarray", "numpy.dtype", "numpy.scalar"}
