"""Optuna's samplers and pruners, by the names of `search.algorithm` and `search.scheduler`."""

from __future__ import annotations

import io
import math
import pickle  # noqa: TID251  # for a subclass that refuses all but numbers
import warnings
from typing import Any

from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, HyperbandPruner, MedianPruner, NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, QMCSampler, RandomSampler, TPESampler
from optuna.trial import FrozenTrial

from gan_dist.artifacts.objectives import Objectives
from gan_dist.config import SearchConfig
from gan_dist.core.errors import StorageError
from gan_dist.search.objectives import RankedSampler

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
