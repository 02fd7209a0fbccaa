"""Trials that share a GPU: as many at once as its parts, on a node that claims a GPU it does not have."""

from __future__ import annotations

from pathlib import Path

import pytest
import ray

from gan_dist.cluster.connect import find_machine
from gan_dist.cluster.nodes.head_probe import node_resources, require_reachable
from gan_dist.cluster.nodes.resources import cluster_nodes, worker_capacity
from gan_dist.cluster.tune import driver
from gan_dist.search.plan import begin, make_plan
from gan_dist.search.study import SearchStudy
from gan_dist.search.study_storage import study_storage
from tests.cluster.conftest import AddNode

SMALL = ["model.width=4", "model.max_width=8", "train.batch_size=32", "eval.samples=64", "train.kimg=0.256"]


@pytest.mark.ray
@pytest.mark.slow
def test_two_trials_at_once_share_a_gpu(tmp_path: Path, add_node: AddNode) -> None:
    add_node(num_cpus=4, num_gpus=1)
    # A cluster is asked by its address before it is joined, and by Ray afterwards.
    asked = node_resources(require_reachable(ray.get_runtime_context().gcs_address))
    assert sorted(asked) == sorted(find_machine().nodes) == [(2, 0), (4, 1)]
    search = ["search.scheduler=none", "scale.gpus_per_worker=0.5", "search.trials=3"]
    plan = make_plan("search-digits", [*SMALL, *search, "eval.every_kimg=0.064", f"storage={tmp_path}"])
    assert worker_capacity(plan.config.scale, cluster_nodes()) == 2
    begin(plan, "fd_digits")
    study = SearchStudy(study_storage(plan.uri, None), "search", plan.space, plan.search, plan.grace)
    free: list[dict[str, float]] = []
    driver.run(plan, study, "fd_digits", lambda: free.append(ray.available_resources()))
    assert [trial.state.name for trial in study.trials()] == ["COMPLETE"] * 3
    # Two of the three took all of the GPU, and two of the six CPUs.
    least = {key: min(one.get(key, 0.0) for one in free) for key in ("CPU", "GPU")}
    assert least == {"CPU": 4.0, "GPU": 0.0}
