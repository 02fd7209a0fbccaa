"""The number of workers that fit on nodes, with shares of GPUs."""

from __future__ import annotations

import pytest

from gan_dist.cluster.nodes.resources import Node, require_capacity, worker_capacity
from gan_dist.config import ScaleConfig
from gan_dist.core.errors import CapacityError


@pytest.mark.parametrize(
    ("gpus_per_worker", "nodes", "fits"),
    [
        (0.25, [(8.0, 1.0)], 4),
        (0.25, [(3.0, 1.0)], 3),
        (0.3, [(8.0, 1.0), (8.0, 1.0)], 6),
        (0.6, [(8.0, 2.0)], 2),  # not 3: no worker has a part of two GPUs
        (0.1, [(64.0, 1.0)], 10),
        (2.0, [(8.0, 3.0)], 1),
        (0.0, [(2.5, 8.0)], 2),
    ],
)
def test_what_nodes_hold(gpus_per_worker: float, nodes: list[tuple[float, float]], fits: int) -> None:
    scale = ScaleConfig(gpus_per_worker=gpus_per_worker)
    assert worker_capacity(scale, [Node(cpus, gpus) for cpus, gpus in nodes]) == fits


def test_what_does_not_fit_is_refused_with_what_does() -> None:
    scale = ScaleConfig(workers=3, gpus_per_worker=0.6)
    with pytest.raises(CapacityError, match=r"3 x 0.6 = 1.8 GPUs; here has 8 CPUs .* use scale.workers=2"):
        require_capacity(scale, [Node(8.0, 2.0)], "here")


@pytest.mark.parametrize(
    ("workers", "gpus_per_worker", "message"),
    [
        (1, 1.5, "use 1 or 2"),
        (2, 0.25, "2 of the 2 workers could share a GPU, which NCCL refuses; use 1, or scale.workers=1"),
    ],
)
def test_parts_of_gpus_that_no_cluster_gives(workers: int, gpus_per_worker: float, message: str) -> None:
    scale = ScaleConfig(workers=workers, gpus_per_worker=gpus_per_worker)
    with pytest.raises(CapacityError, match=message):
        require_capacity(scale, [Node(64.0, 8.0)], "here")
