"""Trials that share a GPU: as many at once as its parts, on a Ray that is told of a GPU that is not there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.heads import printed_apart

SCRIPT = """
import json, logging, sys
import ray
from gan_dist.cluster.tune import driver
from gan_dist.cluster.nodes.resources import cluster_nodes, worker_capacity
from gan_dist.search.study import SearchStudy
from gan_dist.search.plan import begin, make_plan
from gan_dist.search.study_storage import study_storage

small = ["model.width=4", "model.max_width=8", "train.batch_size=32", "eval.samples=64", "train.kimg=0.256"]
small += ["eval.every_kimg=0.064", "search.scheduler=none", "scale.gpus_per_worker=0.25", "search.trials=5"]
plan = make_plan("search-digits", [*small, f"storage={sys.argv[1]}"])
ray.init(address="local", num_cpus=8, num_gpus=1, include_dashboard=False, log_to_driver=False,
         logging_level=logging.ERROR)
begin(plan, "fd_digits")
study = SearchStudy(study_storage(plan.uri, None), "search", plan.space, plan.search, plan.grace)
free = []
driver.run(plan, study, "fd_digits", lambda: free.append(ray.available_resources()))
print(json.dumps({
    "room": worker_capacity(plan.config.scale, cluster_nodes()),
    "states": [trial.state.name for trial in study.trials()],
    "least": {key: min(one.get(key, 0.0) for one in free) for key in ("CPU", "GPU")},
}))
ray.shutdown()
"""


@pytest.mark.ray
@pytest.mark.slow
def test_four_trials_at_once_share_a_gpu(tmp_path: Path, ray_folder: str) -> None:
    printed = printed_apart(SCRIPT, str(tmp_path), ray_folder=ray_folder, timeout_s=500)
    told = json.loads(printed.splitlines()[-1])
    assert told["room"] == 4
    assert told["states"] == ["COMPLETE"] * 5
    # All of the GPU was taken, by four of the five, and half of the CPUs.
    assert told["least"] == {"CPU": 4.0, "GPU": 0.0}
