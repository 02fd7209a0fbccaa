"""The reason of a worker group's failure, in a line."""

from __future__ import annotations

from ray.exceptions import RayActorError
from ray.train import ControllerError, WorkerGroupError
from ray.train.v2._internal.exceptions import WorkerHealthCheckFailedError

from gan_dist.cluster.train.worker_group import failure_reason

CLOSED = RuntimeError(
    "[/src/gloo/transport/tcp/pair.cc:561] Connection closed by peer [10.0.0.2]:12209. This is typically "
    "caused by a remote worker crashing. Check the logs."
)


def test_a_worker_that_died_is_the_reason_and_not_those_that_miss_it() -> None:
    died = WorkerHealthCheckFailedError("a worker health check failed", failure=RayActorError())
    assert failure_reason(WorkerGroupError("", {0: CLOSED, 1: died})) == "worker 1 died"


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
