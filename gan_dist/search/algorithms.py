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
from gan_dist.config import SearchConfig
from gan_dist.core.errors import Problem, StorageError
from gan_dist.search.objectives import RankedSampler
from gan_dist.search.space import Space
from gan_dist.search.space.distributions import all_values

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
        case "none":
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
