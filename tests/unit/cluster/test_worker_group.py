"""Workers: environment, interfaces (as `ip addr` shows them on real machines), why a group failed."""

from __future__ import annotations

import os

import pytest
import ray
from ray.exceptions import RayActorError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from gan_dist.cluster.train import worker_group
from gan_dist.cluster.train.worker_group import environment, failure_reason, interface_variables
from gan_dist.config import ScaleConfig
from gan_dist.core import host

LAPTOP = {"lo": "127.0.0.1", "wlan0": "192.168.1.7"}
CLOUD = {"lo": "127.0.0.1", "docker0": "172.17.0.1", "ens5": "10.0.3.4", "ib0": "10.9.0.4"}


def test_where_the_hosts_name_is_the_loopback_gloo_is_told_the_interface_that_others_reach() -> None:
    for named in ("127.0.0.1", "127.0.1.1", "::1", None, "172.17.0.1"):
        assert interface_variables("10.0.3.4", named, CLOUD) == {
            "GLOO_SOCKET_IFNAME": "ens5",
            "NCCL_SOCKET_IFNAME": "=ens5",
        }
    assert interface_variables("192.168.1.7", "127.0.1.1", LAPTOP)["GLOO_SOCKET_IFNAME"] == "wlan0"


def test_gloo_is_told_nothing_where_it_is_right_by_itself() -> None:
    assert interface_variables("10.0.3.4", "10.0.3.4", CLOUD) == {"NCCL_SOCKET_IFNAME": "=ens5"}


def test_an_address_of_no_interface_says_nothing() -> None:
    assert interface_variables("203.0.113.9", "127.0.0.1", CLOUD) == {}


def test_what_a_user_has_set_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray.util, "get_node_ip_address", lambda: "127.0.0.1")
    monkeypatch.setattr(host, "own_address", lambda: None)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "ens7")
    monkeypatch.delenv("NCCL_SOCKET_IFNAME", raising=False)
    worker_group.use_reachable_interface()
    assert os.environ["GLOO_SOCKET_IFNAME"] == "ens7"
    assert os.environ["NCCL_SOCKET_IFNAME"] == "=lo"


@pytest.mark.parametrize(("cpus", "threads"), [(0.25, None), (1, None), (7.5, "7"), (8, "8")])
def test_threads_follow_the_cpus_where_ray_would_choose_one(cpus: float, threads: str | None) -> None:
    assert environment(ScaleConfig(cpus_per_worker=cpus)).get("OMP_NUM_THREADS") == threads


def test_workers_of_a_cluster_that_this_process_has_started_need_no_new_processes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(worker_group, "started_here", lambda: True)
    assert environment(ScaleConfig(cpus_per_worker=1)) == {}
    monkeypatch.setattr(worker_group, "started_here", lambda: False)
    assert environment(ScaleConfig(cpus_per_worker=1)) == {"MALLOC_ARENA_MAX": "1"}


CLOSED = RuntimeError(
    "[/src/gloo/transport/tcp/pair.cc:561] Connection closed by peer [10.0.0.2]:12209. This is typically "
    "caused by a remote worker crashing. Check the logs."
)


def test_a_worker_that_died_is_the_reason_and_not_those_that_miss_it() -> None:
    died = WorkerHealthCheckFailedError("a worker health check failed", failure=RayActorError())
    assert failure_reason(WorkerGroupError("", {0: CLOSED, 1: died})) == "worker 1 died"


def test_a_worker_that_does_not_answer_is_named_by_those_that_waited_for_it() -> None:
    late = RuntimeError("[/src/gloo/x.cc:81] Timed out waiting 20000ms for recv operation to complete")
    error = WorkerGroupError("", {0: late, 2: late})
    reason = failure_reason(error, workers=3, waiting={0, 2}, timeout_s=20.0)
    assert reason == "worker 1 did not answer the others for 20 s (scale.collective_timeout_s)"
    # A network that lets nobody through makes all wait.
    reason = failure_reason(error, workers=3, waiting={0, 1, 2}, timeout_s=20.0)
    assert reason == "worker 0 failed: RuntimeError: Timed out waiting 20000ms for recv operation to complete"


def test_a_reason_is_one_line() -> None:
    expected = "worker 1 failed: RuntimeError: Connection closed by peer [10.0.0.2]:12209"
    assert failure_reason(WorkerGroupError("", {1: CLOSED})) == expected
    assert failure_reason(WorkerGroupError("", {0: ValueError("a\nb")})) == "worker 0 failed: ValueError: a"
    assert failure_reason(WorkerGroupError("", {0: KeyError()})) == "worker 0 failed: KeyError: "
    assert (
        failure_reason(ControllerError(TimeoutError("too late")))
        == "the workers failed: TimeoutError: too late"
    )
    assert failure_reason(RuntimeError("x")) == "the workers failed: RuntimeError: x"
