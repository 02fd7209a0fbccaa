"""A small real run and a search that ended in every way, to report of."""

from __future__ import annotations

import json
import math
from itertools import islice
from pathlib import Path

import torch

from gan_dist.config import load_config, to_yaml
from gan_dist.core import storage
from gan_dist.search.plan import Plan, make_plan
from gan_dist.search.start import begin
from gan_dist.search.study import SearchStudy
from gan_dist.search.study_storage import study_storage
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from tests.support.searches import record, trial_uri, write_run

SMALL = [
    *("data.resolution=16", "model.name=dcgan", "model.max_width=null", "model.width=4", "data.cache=memory"),
    *("model.latent_dim=8", "train.batch_size=32", "eval.samples=64", "eval.every_kimg=0.064"),
]
SPACE = {
    "optim.g.lr": {"log": [1e-4, 1e-2]},
    "loss.name": ["hinge", "wgan-gp"],
    "loss.gp": {"log": [1, 30], "when": {"loss.name": "wgan-gp"}},
}


def small_run(folder: Path) -> str:
    """Train a run with four evaluations, and a record between every two; return its folder."""
    torch.set_num_threads(1)
    settings = [f"storage={folder}", "name=faces", "log.every_kimg=0.032", *SMALL]
    config = load_config(
        "digits", [*settings, "train.kimg=0.256", "data.augment=ada", "eval.metrics=[kid,pr]"]
    )
    train(config, LocalContext(config.run_uri))
    return config.run_uri


def plan_of(folder: Path, *more: str) -> Plan:
    space = f"search.space={json.dumps(SPACE)}"
    return make_plan(
        "digits",
        [f"storage={folder}", "name=hunt", *SMALL, "train.kimg=0.32", "search.trials=9", space, *more],
    )


def ledger_of(plan: Plan) -> SearchStudy:
    owner = begin(plan, "fd_digits")
    kept_at = study_storage(plan.uri, plan.search.optuna_storage)
    return SearchStudy(kept_at, plan.config.name, plan.space, plan.search, plan.grace, owner=owner)


CURVES = {
    0: ("complete", {64: 9.0, 128: 7.0, 192: 8.0, 256: 5.0, 320: 4.5}),
    1: ("pruned", {64: 30.0, 128: 25.0}),
    2: ("failed", {64: 12.0}),
    3: ("complete", {64: 8.0, 128: 6.0, 192: 5.0, 256: 4.0, 320: 3.5}),
    4: ("pruned", {64: 40.0}),
    5: ("running", {64: 11.0, 128: math.nan}),
    6: ("complete", {64: 8.0, 128: 7.0, 192: 6.5, 256: 6.0, 320: 5.5}),
}


def search_with(plan: Plan, reason: str = "NonFiniteError: the loss", trials: int = len(CURVES)) -> str:
    """Write a search in which trials ended in every way, and one has not; return its folder."""
    study = ledger_of(plan)
    for number, (state, curve) in islice(CURVES.items(), trials):
        trial = study.next()
        assert trial is not None
        own = {"images_per_second": 100.0, "diversity": number / 10}
        records = [{**record(images, value), **own} for images, value in curve.items()]
        for one in records:
            study.measure(number, one["images"], one)
            study.report(number, one["images"], one["fd_digits"])
        if state == "complete":
            study.complete(number)
        elif state == "pruned":
            study.prune(number)
        elif state == "failed":
            study.fail(number, reason)
        best = min(records, key=lambda one: one["fd_digits"])
        run = trial_uri(plan.uri, number)
        write_run(run, records, *([best] if state == "complete" else []))
        storage.write_bytes(
            storage.join(run, "config.yaml"), to_yaml(plan.trial(number, trial.params)).encode()
        )
    return plan.uri
