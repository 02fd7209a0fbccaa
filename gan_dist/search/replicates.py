"""The best trials run again with other seeds, so that luck names no winner."""

from __future__ import annotations

import math
from collections.abc import Mapping

from optuna.trial import TrialState

from gan_dist import storage, telemetry
from gan_dist.config import RunConfig
from gan_dist.folders import to_json
from gan_dist.search.ledger import Ledger
from gan_dist.search.plan import Plan
from gan_dist.search.view import lowest
from gan_dist.search_folder import REPLICATED, Replicated

TOP = 3
"""Trials that are run again."""


def replicas(plan: Plan, ledger: Ledger) -> list[RunConfig]:
    """Return the runs that are to be made of the best trials."""
    return [config for number, values in _best(ledger).items() for config in _of_trial(plan, number, values)]


def replicated(plan: Plan, ledger: Ledger, metric: str) -> list[Replicated]:
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


def _best(ledger: Ledger) -> dict[int, Mapping[str, object]]:
    """Return the values that the best trials varied, by number; those that were stopped are none of them."""
    measured = [trial for trial in ledger.trials() if trial.state == TrialState.COMPLETE]
    measured.sort(key=lambda trial: (lowest(trial), trial.number))
    return {trial.number: trial.params for trial in measured[:TOP]}


def _of_trial(plan: Plan, number: int, values: Mapping[str, object]) -> list[RunConfig]:
    return [plan.replica(number, values, index + 1) for index in range(plan.search.replicates)]


def _value(run_uri: str, metric: str) -> float:
    """Return the lowest value that a run has recorded, or infinity."""
    if not storage.exists(storage.join(run_uri, telemetry.METRICS)):
        return math.inf
    values = [record.get(metric) for record in telemetry.read_records(run_uri)]
    return min((value for value in values if value is not None), default=math.inf)
