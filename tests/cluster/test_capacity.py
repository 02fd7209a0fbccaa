"""What can ever be placed, and what memory it takes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from gan_dist.cluster.nodes.resources import (
    Node,
    concurrent_trials,
    idle_gpu_warning,
    memory_warning,
    process_count,
    require_capacity,
    worker_capacity,
)
from gan_dist.config import ScaleConfig
from gan_dist.core.errors import CapacityError

GPU_NODES = [Node(8, 2, 64e9, 20e9), Node(8, 1, 64e9, 20e9), Node(16, 0, 64e9, 20e9)]


def test_workers_are_held_node_by_node() -> None:
    assert worker_capacity(ScaleConfig(cpus_per_worker=3), GPU_NODES) == 2 + 2 + 5
    assert worker_capacity(ScaleConfig(cpus_per_worker=3, gpus_per_worker=1), GPU_NODES) == 2 + 1
    assert worker_capacity(ScaleConfig(gpus_per_worker=0.25), GPU_NODES) == 8 + 4


def test_what_no_node_can_hold_is_refused_with_what_fits() -> None:
    with pytest.raises(CapacityError, match=r"4 x 1 = 4 GPUs.*hold 3 such workers; use scale.workers=3"):
        require_capacity(ScaleConfig(workers=4, gpus_per_worker=1), GPU_NODES, "it")
    with pytest.raises(CapacityError, match="ask for less per worker"):
        require_capacity(ScaleConfig(cpus_per_worker=17), GPU_NODES, "it")
    require_capacity(ScaleConfig(workers=3, gpus_per_worker=1), GPU_NODES, "it")


def test_processes_that_are_more_than_all_memory_are_refused() -> None:
    small = [Node(64, 0, 8e9, 2e9)]
    with pytest.raises(CapacityError, match=r"17 processes of 0.7 GB.*11.9 GB.*8.0 GB.*scale.workers=10"):
        require_capacity(ScaleConfig(workers=16), small, "it")
    require_capacity(ScaleConfig(workers=10), small, "it")
    # Memory that nobody tells is not missing.
    require_capacity(ScaleConfig(workers=16), [Node(64, 0)], "it")


def test_trials_count_their_drivers() -> None:
    one, two = ScaleConfig(), ScaleConfig(workers=2)
    assert (
        process_count(one, trial=True),
        process_count(two, trial=True),
        process_count(two, trial=False),
    ) == (1, 4, 3)
    assert concurrent_trials(two, GPU_NODES, None) == 16
    assert concurrent_trials(two, GPU_NODES, 5) == 5
    # Two workers, the trial's actor and the trainer's controller: 2.8 GB a trial, of 6 GB beside objects.
    room = [Node(16, 0, 8e9, 2e9)]
    warning = memory_warning(two, room, concurrent_trials(two, room, None))
    assert warning is not None
    assert "32 processes of 0.7 GB" in warning.what
    assert "search.concurrent=2" in warning.remedy
    assert memory_warning(two, room, 2) is None
    assert memory_warning(one, room, 8) is None
    assert memory_warning(ScaleConfig(workers=8), room) is not None


def test_gpus_that_nobody_asks_for_are_told() -> None:
    assert str(idle_gpu_warning(ScaleConfig(), GPU_NODES)) == (
        "3 GPUs are there and none is asked for: this runs on CPUs; use scale.gpus_per_worker=1"
    )
    assert idle_gpu_warning(ScaleConfig(gpus_per_worker=0.5), GPU_NODES) is None
    assert idle_gpu_warning(ScaleConfig(), GPU_NODES[2:]) is None


def test_only_workers_that_exchange_gradients_need_a_gpu_each() -> None:
    quarters = ScaleConfig(workers=4, gpus_per_worker=0.25)
    with pytest.raises(CapacityError, match="which NCCL refuses"):
        require_capacity(quarters, GPU_NODES, "it")
    require_capacity(quarters, GPU_NODES, "it", evaluating=True)


@pytest.mark.parametrize(
    ("scale", "nodes", "told"),
    [
        (ScaleConfig(workers=4, gpus_per_worker=1), GPU_NODES, r"^--workers 4 needs .*; use --workers 3, or"),
        (
            ScaleConfig(workers=16),
            [Node(64, 0, 8e9, 2e9)],
            r"^--workers 16 and .*; use --workers 10 or fewer",
        ),
        (
            ScaleConfig(gpus_per_worker=1.5),
            GPU_NODES,
            r"^--gpus-per-worker 1\.5: Ray reserves .*; use 1 or 2",
        ),
    ],
)
def test_an_evaluation_is_told_by_its_verbs_options(scale: ScaleConfig, nodes: list[Node], told: str) -> None:
    with pytest.raises(CapacityError, match=told) as caught:
        require_capacity(scale, nodes, "it", evaluating=True)
    assert "scale." not in str(caught.value)


def test_warnings_of_an_evaluation_name_its_verbs_options() -> None:
    idle = idle_gpu_warning(ScaleConfig(), GPU_NODES, evaluating=True)
    assert idle is not None
    assert idle.remedy == "use --gpus-per-worker 1"
    short = memory_warning(ScaleConfig(workers=8), [Node(16, 0, 8e9, 2e9)], evaluating=True)
    assert short is not None
    assert short.remedy == "use fewer --workers, or add memory"


REFUSED = """
import sys
import ray
from typer.testing import CliRunner
from gan_dist.cli import app
for verb in (["train", "digits"], ["tune", "search-digits"]):
    for scale in ("scale.workers=512", "scale.cpus_per_worker=512"):
        done = CliRunner().invoke(app, [*verb, scale, "train.batch_size=512", "storage=" + sys.argv[1]])
        print(type(done.exception).__name__, "this machine has" in str(done.exception), ray.is_initialized())
"""


def test_this_machine_refuses_before_ray_is_started(tmp_path: Path) -> None:
    # A process of its own: in this one another test's Ray may run.
    variables = {name: value for name, value in os.environ.items() if name != "RAY_ADDRESS"}
    done = subprocess.run(
        [sys.executable, "-c", REFUSED, str(tmp_path)],
        env=variables,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.splitlines() == ["CapacityError True False"] * 4
