"""The best trials run again with other seeds, so that luck names no winner."""

from __future__ import annotations

import math
from collections.abc import Mapping

from optuna.trial import TrialState

from gan_dist.artifacts import records
from gan_dist.artifacts.search_folder import REPLICATED, Replicated
from gan_dist.config import RunConfig
from gan_dist.core import storage
from gan_dist.core.storage.hashed_folder import to_json
from gan_dist.search.display import lowest
from gan_dist.search.plan import Plan
from gan_dist.search.study import SearchStudy

TOP = 3
"""Trials that are run again."""


def replicas(plan: Plan, ledger: SearchStudy) -> list[RunConfig]:
    """Return the runs that are to be made of the best trials."""
    return [config for number, values in _best(ledger).items() for config in _of_trial(plan, number, values)]


def replicated(plan: Plan, ledger: SearchStudy, metric: str) -> list[Replicated]:
    """Return what the best trials came to over all seeds, the best mean first, and write it down."""
    if not plan.search.replicates:
        return []
    own = {trial.number: lowest(trial) for trial in ledger.trials()}
    found = [
        Replicated(
            number,
            (own[number], *(_value(config.run_uri, metric) for config in _of_trial(plan, number, values))),
        )
        for number, values in _best(ledger).items()
    ]
    found.sort(key=lambda one: (one.mean, one.trial))
    record = [
        {"trial": one.trial, "values": one.values, "mean": one.mean, "std": one.spread}
        for one in found
        if math.isfinite(one.mean)
    ]
    storage.write_bytes(storage.join(plan.uri, REPLICATED), to_json(record))
    return found


def _best(ledger: SearchStudy) -> dict[int, Mapping[str, object]]:
    """Return the values that the best trials varied, by number; those that were stopped are none of them."""
    measured = [trial for trial in ledger.trials() if trial.state == TrialState.COMPLETE]
    measured.sort(key=lambda trial: (lowest(trial), trial.number))
    return {trial.number: trial.params for trial in measured[:TOP]}


def _of_trial(plan: Plan, number: int, values: Mapping[str, object]) -> list[RunConfig]:
    return [plan.replica(number, values, index + 1) for index in range(plan.search.replicates)]


def _value(run_uri: str, metric: str) -> float:
    """Return the lowest value that a run has recorded, or infinity."""
    if not storage.exists(storage.join(run_uri, records.METRICS)):
        return math.inf
    values = [record.get(metric) for record in records.read_records(run_uri)]
    return min((value for value in values if value is not None), default=math.inf)
