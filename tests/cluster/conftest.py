"""One local Ray for all tests of this folder, with nodes that come and go."""

from __future__ import annotations

import logging
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import ray
from ray.cluster_utils import Cluster
from ray.util.placement_group import placement_group, remove_placement_group

from tests.support.s3 import KEYS

AddNode = Callable[..., Any]


@pytest.fixture(scope="package")
def cluster(s3_url: str) -> Iterator[Cluster]:
    """A cluster of one node with 2 CPUs, which this process is connected to until the folder's last test."""
    # Short, since the paths of Ray's sockets are limited to 107 bytes.
    with (
        tempfile.TemporaryDirectory(prefix="gd-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        patch.setenv("RAY_raylet_start_wait_time_s", "120")  # other test processes take the CPUs
        # A node that is killed is missed after 5 s, not after 15.
        patch.setenv("RAY_health_check_period_ms", "1000")
        patch.delenv("RAY_ADDRESS", raising=False)
        # As on a cluster whose nodes were started with these set.
        for key, value in {**KEYS, "AWS_ENDPOINT_URL": s3_url}.items():
            patch.setenv(key, value)
        head = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 2**30}
        running = Cluster(initialize_head=True, head_node_args=head)
        ray.init(address=running.address, log_to_driver=False, logging_level=logging.ERROR)
        yield running
        ray.shutdown()
        running.shutdown()


@pytest.fixture(scope="package")
def local_ray(cluster: Cluster) -> None:
    """Ray is initialised, with 2 CPUs."""


@pytest.fixture
def add_node(cluster: Cluster) -> Iterator[AddNode]:
    """A function that adds a node to the cluster; its arguments are those of `Cluster.add_node`."""
    added = []

    def add(**resources: Any) -> Any:
        added.append(cluster.add_node(**resources))
        return added[-1]

    yield add
    for node in added:
        if node in cluster.worker_nodes:
            cluster.remove_node(node)
    deadline = time.monotonic() + 60
    while sum(node["Alive"] for node in ray.nodes()) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)


@contextmanager
def _reserved(cpus: int) -> Iterator[None]:
    group = placement_group([{"CPU": cpus}])
    assert group.wait(30)
    yield
    remove_placement_group(group)


@pytest.fixture
def a_busy_cpu(local_ray: None) -> Iterator[None]:  # noqa: ARG001
    """One of the cluster's two CPUs is reserved."""
    with _reserved(1):
        yield


@pytest.fixture
def a_busy_head(local_ray: None) -> Iterator[None]:  # noqa: ARG001
    """Both CPUs of the cluster's first node are reserved."""
    with _reserved(2):
        yield
