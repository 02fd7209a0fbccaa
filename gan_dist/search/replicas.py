"""The best trials run again with other seeds, so that no trial wins by luck."""

from __future__ import annotations

import math
from collections.abc import Mapping

from optuna.trial import TrialState

from gan_dist.artifacts import records
from gan_dist.artifacts.search_folder import REPLICATED, ReplicatedTrial
from gan_dist.config import RunConfig
from gan_dist.core import storage
from gan_dist.core.storage.hashed_folder import to_json
from gan_dist.search.plan import Plan
from gan_dist.search.study import SearchStudy, lowest_value

TOP = 3
"""Trials that are run again."""


def replica_configs(plan: Plan, study: SearchStudy) -> list[RunConfig]:
    """Return the configurations of the best trials' repetitions."""
    return [config for number, values in _best(study).items() for config in _replicas(plan, number, values)]


def record_replicas(plan: Plan, study: SearchStudy, metric: str) -> list[ReplicatedTrial]:
    """Return the best trials' values over all seeds, the best mean first, and write them to the folder."""
    if not plan.search.replicates:
        return []
    own = {trial.number: lowest_value(trial) for trial in study.trials()}
    found = [
        ReplicatedTrial(
            number,
            (own[number], *(_lowest(config.run_uri, metric) for config in _replicas(plan, number, values))),
        )
        for number, values in _best(study).items()
    ]
    found.sort(key=lambda one: (one.mean, one.trial))
    record = [
        {"trial": one.trial, "values": one.values, "mean": one.mean, "std": one.std}
        for one in found
        if math.isfinite(one.mean)
    ]
    storage.write_bytes(storage.join(plan.uri, REPLICATED), to_json(record))
    return found


def _best(study: SearchStudy) -> dict[int, Mapping[str, object]]:
    """Return the values of the best trials by number, without those that were stopped."""
    complete = [trial for trial in study.trials() if trial.state == TrialState.COMPLETE]
    complete.sort(key=lambda trial: (lowest_value(trial), trial.number))
    return {trial.number: trial.params for trial in complete[:TOP]}


def _replicas(plan: Plan, number: int, values: Mapping[str, object]) -> list[RunConfig]:
    return [plan.replica(number, values, index + 1) for index in range(plan.search.replicates)]


def _lowest(run_uri: str, metric: str) -> float:
    if not storage.exists(storage.join(run_uri, records.METRICS)):
        return math.inf
    values = [record.get(metric) for record in records.read_records(run_uri)]
    return min((value for value in values if value is not None), default=math.inf)
