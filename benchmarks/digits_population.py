"""A population of four on the handwritten digits against ASHA with as many images: `search --population`.

Both search three numbers that may change within a run, in this process, one run after another, without Ray.
ASHA trains trials until it has used as many images as the population; the last one is cut short.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from tempfile import TemporaryDirectory

import torch

from gan_dist.artifacts.records import read_records
from gan_dist.cluster.tune.population import PopulationTrials
from gan_dist.config import RunConfig
from gan_dist.search.plan import Plan, make_plan
from gan_dist.search.start import begin
from gan_dist.search.study import SearchStudy, images_trained, lowest_value
from gan_dist.search.study_storage import study_storage
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train

METRIC = "fd_digits"
SETTINGS = [
    *("train.kimg=12", "eval.every_kimg=1", "model.width=16", "model.max_width=32", "loss.name=rpgan"),
    *("loss.r2=0.3", "scale.workers=1", "train.checkpoint_every_s=null", "eval.samples=1000"),
    "search.space={optim.g.lr: {log: [1e-4, 1e-2]}, optim.d.lr: {log: [1e-4, 1e-2]}, "
    "loss.r1: {log: [0.03, 3]}}",
]


def run(*, quick: bool = False) -> dict[str, object]:
    """Return the best distances of both for each seed, and in how many the population's is as low."""
    seeds, length = (1, ["train.kimg=3", "eval.every_kimg=1", "eval.samples=64"]) if quick else (3, [])
    torch.set_num_threads(1)
    found = [_compare(seed, length) for seed in range(seeds)]
    as_good = sum(one["population"] <= one["asha"] for one in found)
    return {"population_as_good_as_asha": as_good, "seeds": seeds, "population_searches": found}


def _compare(seed: int, length: list[str]) -> dict[str, float]:
    settings = [*SETTINGS, *length, f"search.seed={seed}"]
    with TemporaryDirectory(prefix="gan-dist-bench-") as folder:
        places = [f"storage={folder}", "name=population", "search.scheduler=pbt", "search.trials=4"]
        study = _population(make_plan("search-digits", [*settings, *places]))
        images = sum(map(images_trained, study.trials()))
        population = min(map(lowest_value, study.trials()))
        copies = sum("decision" in key and value is not None for key, value in _attributes(study))
        places = [f"storage={folder}", "name=asha", "search.trials=1000"]
        study, used = _asha(make_plan("search-digits", [*settings, *places]), images)
        return {
            "population": population,
            "asha": min(map(lowest_value, study.trials())),
            "images": images,
            "asha_images": used,
            "copies": copies,
            "asha_trials": len(study.trials()),
        }


def _attributes(study: SearchStudy) -> list[tuple[str, object]]:
    return [item for trial in study.trials() for item in trial.user_attrs.items()]


def _open(plan: Plan) -> SearchStudy:
    begin(plan, METRIC)
    length = plan.ends[-1]
    storage = study_storage(plan.uri, None)
    return SearchStudy(storage, "bench", plan.space, plan.search, plan.grace, length)


def _population(plan: Plan) -> SearchStudy:
    study = _open(plan)
    source = PopulationTrials(plan, study, METRIC, lambda: None)
    while isinstance(run := source.next_run("run"), dict):
        config = RunConfig.model_validate(run["run"])
        train(config, LocalContext(config.run_uri))
        for record in read_records(config.run_uri):
            if METRIC in record:
                source.on_result("run", {"images": record["images"], "value": record[METRIC]})
        source.on_end("run", {"done": True}, died=False)
    return study


class _Reporting(LocalContext):
    """A run that ends when its study says so, or when all images are used."""

    def __init__(self, run_uri: str, report: Callable[[int, float], bool]) -> None:
        self._stop = False
        super().__init__(run_uri, should_stop=lambda: self._stop)
        self._report = report

    def report(self, metrics: Mapping[str, object], checkpoint: str) -> None:
        images, value = int(str(metrics["images"])), float(str(metrics[METRIC]))
        self._stop = self._report(images, value) or self._stop


def _asha(plan: Plan, budget: int) -> tuple[SearchStudy, int]:
    study, used = _open(plan), 0
    every = round(1000 * plan.config.eval.every_kimg)
    while used + every <= budget and (trial := study.next()) is not None:
        before, number = used, trial.number

        def report(images: int, value: float, number: int = number, before: int = before) -> bool:
            stops = study.report(number, images, value)
            return stops or before + images + every > budget

        config = plan.trial(number, trial.params)
        train(config, _Reporting(config.run_uri, report))
        used = before + images_trained(study.running()[0])
        study.complete(number) if images_trained(study.running()[0]) >= plan.ends[-1] else study.prune(number)
    return study, used
