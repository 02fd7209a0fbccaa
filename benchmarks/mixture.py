"""How near a mixture of a search's generators comes to real images, over the nearest that one of them comes.

Searches of the preset `search-digits` with shorter trials, one after another and without Ray; then what
`gan-dist best SEARCH --mixture 4` does. Half of the real images choose and the other half judges; the floor
is the distance between the two halves.
"""

from __future__ import annotations

import tempfile
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from statistics import median

import torch

from gan_dist.artifacts.mixture import find_candidates
from gan_dist.artifacts.records import read_records
from gan_dist.core.errors import NonFiniteError
from gan_dist.core.host import cores
from gan_dist.core.storage import StorageOptions
from gan_dist.evaluation.mixture import find_mixture
from gan_dist.evaluation.tasks import Request
from gan_dist.search.plan import Plan, make_plan
from gan_dist.search.start import begin
from gan_dist.search.study import SearchStudy
from gan_dist.search.study_storage import study_storage
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train

METRIC = "fd_digits"
SEARCHES, TRIALS, KIMG = 3, 12, 20
MEMBERS = 4
WANTED = 0.85
"""Of the best single generator's distance."""


def run(*, quick: bool = False) -> dict[str, object]:
    """Return the ratio of each search's mixture to its best release, both from the half that judges."""
    searches, trials, kimg = (1, 3, 0.64) if quick else (SEARCHES, TRIALS, KIMG)
    # A thread each: two threads would wait for one another in every small layer.
    with ProcessPoolExecutor(cores(), get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        results = [*pool.map(partial(_mixture_of, trials=trials, kimg=kimg), range(searches))]
    ratios = [float(one["held_out"]) / float(one["single"]) for one in results]
    return {
        "ratio": median(ratios),
        "ratios": ratios,
        f"at_most_{WANTED}": sum(ratio <= WANTED for ratio in ratios),
        "trials": trials,
        "kimg": kimg,
        "searches": results,
    }


def _mixture_of(seed: int, trials: int, kimg: float) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="gan-dist-bench-") as folder:
        length = [f"train.kimg={kimg}", f"eval.every_kimg={kimg / 4}", "eval.target=null"]
        alone = [f"storage={folder}", "data.cache=memory", f"seed={seed}", f"search.seed={seed}"]
        plain = ["search.scheduler=none", f"search.trials={trials}"]
        plan = make_plan("search-digits", [*length, *alone, *plain])
        _search(plan)
        candidates, _ = find_candidates(plan.uri)
        request = Request(
            source=candidates[0].release,
            data=plan.config.data.path,
            metrics=(),
            samples=plan.config.eval.samples,
            repeats=1,
            extractor=plan.config.eval.extractor,
            inception_weights=None,
            seed=seed,
            storage=StorageOptions(),
        )
        found = find_mixture(request, [one.release for one in candidates], MEMBERS)
    judged = {name: getattr(found, name) for name in ("held_out", "single", "chosen", "real")}
    return judged | {"members": len(found.weights), "weights": [*found.weights.values()]}


def _search(plan: Plan) -> None:
    """Run all trials to their end."""
    begin(plan, METRIC)
    study = SearchStudy(study_storage(plan.uri, None), "bench", plan.space, plan.search, plan.grace)
    while (trial := study.next()) is not None:
        config = plan.trial(trial.number, trial.params)
        try:
            train(config, LocalContext(config.run_uri))
        except NonFiniteError as error:
            study.fail(trial.number, str(error))
            continue
        for record in read_records(config.run_uri):
            if METRIC in record:
                study.report(trial.number, record["images"], record[METRIC])
        study.complete(trial.number)
