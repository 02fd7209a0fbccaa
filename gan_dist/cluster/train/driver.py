"""A run on a cluster: worker groups one after another, each from the last checkpoint, until the run ends."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace

import ray

from gan_dist.cluster.connect import LOST, connect_for, require_alive
from gan_dist.cluster.nodes import placement
from gan_dist.cluster.nodes.node_checks import check_nodes
from gan_dist.cluster.train.status import RunStatus, start_status_actor
from gan_dist.cluster.train.worker_group import WorkerGroup, failure_reason
from gan_dist.config import RunConfig
from gan_dist.core import storage
from gan_dist.core.errors import OutageError, PlacementError, StorageError, WorkerError, extended
from gan_dist.core.interrupts import stop_requests
from gan_dist.core.storage.outage import Patience
from gan_dist.core.storage.redaction import reason
from gan_dist.models import transfer
from gan_dist.training import checkpoint as states
from gan_dist.training.progress import RunResult

RETRIES = 3
"""Worker groups that may fail one after another without a checkpoint that is newer than their start."""
POLL_S = 0.5
GROW_S = 60.0
"""Seconds that a worker group trains with fewer workers than wanted before the driver tries to place more."""


def run(
    config: RunConfig, on_status: Callable[[RunStatus], None], should_stop: Callable[[], bool] = lambda: False
) -> RunResult:
    """Train a run on a cluster and return where it ended.

    The first signal to end (`core/interrupts.py`) makes the run write a checkpoint and end; a second one, or
    one before it trains, ends it at once. Before a node leaves the cluster the run writes a checkpoint and
    goes on with the nodes that are left; after the loss of a worker or a node it goes on from its last
    checkpoint.

    `on_status` and `should_stop` are called a few times a second. The run's `storage` is a URI or an absolute
    path.

    Raises:
        CapacityError: the workers can never be placed.
        GanDistError: any error of the loop.
        PlacementError: the workers could not be placed within `scale.wait_s`, the node of this process
            leaves the cluster, or the cluster ended.
        WorkerError: the workers kept failing for another reason.
    """
    storage.configure(config.storage.options)
    config = config.model_copy(update={"init": transfer.keep(config.init, config.run_uri)})
    with connect_for(config.scale):
        check_nodes(config.run_uri, config.data.path)
        try:
            with stop_requests() as requested:
                return _Driver(config, on_status, lambda: requested.is_set() or should_stop()).run()
        except LOST as error:
            what = f"the run's cluster ended, or cannot be reached any more ({reason(error)})"
            raise PlacementError(f"{what}; {_kept(config.run_uri)}") from error


class _Driver:
    """Starts worker groups, and decides when one ends and what follows."""

    def __init__(
        self, config: RunConfig, on_status: Callable[[RunStatus], None], should_stop: Callable[[], bool]
    ) -> None:
        self._config = config
        self._counts = config.worker_counts
        self._on_status, self._should_stop = on_status, should_stop
        self._actor = start_status_actor()
        self._own_node = ray.get_runtime_context().get_node_id()
        self._announced: frozenset[str] = frozenset()
        self._grow_s = GROW_S

    def run(self) -> RunResult:
        """Start worker groups until one has finished the run or a stop is requested."""
        failures, previous, trained = 0, self._counts[0], False
        patience = self._patience()
        while (workers := self._wait_for_room()) is not None:
            first_image = self._images()
            if workers != previous:
                self._warn(f"from {first_image / 1000:g} kimg on with {workers} of {self._counts[0]} workers")
            if workers > previous:
                self._grow_s = GROW_S
            previous = workers
            number = ray.get(self._actor.start_group.remote())
            group = WorkerGroup(self._config, workers, self._actor, number)
            stopped = self._follow(group)
            status = self._read_status()
            if (failure := status.failure) is not None:
                trained = trained or status.progress is not None
                if isinstance(failure, OutageError) and trained and not stopped:
                    self._warn(f"{failure.problems[0].what}; the run goes on from its last checkpoint")
                    patience.wait_or_raise(failure, first_image)
                    continue
                if isinstance(failure, StorageError):
                    raise extended(failure, "the run is kept as its last checkpoint has it") from None
                raise failure
            if status.result is not None and (status.result.finished or stopped):
                return status.result
            if stopped:
                if group.error is not None:
                    self._warn(f"{self._reason(group, status)} while it was stopped; {self._kept()}")
                break
            if self._own_node in placement.draining_nodes():
                raise PlacementError(f"the node that this command runs on leaves the cluster; {self._kept()}")
            if group.error is not None:
                failures = 0 if self._images() > first_image else failures + 1
                self._handle_failure(group, status, failures)
        return RunResult(self._images(), finished=False, images_per_second=None, value=None)

    def _wait_for_room(self) -> int | None:
        """Wait until workers can be placed and return their number; None if a stop is requested."""
        scale = self._config.scale
        if (count := placement.placeable_workers(scale, self._counts)) is not None:
            return count
        missing = f"no room for {placement.describe_workers(scale, self._counts[-1])}"
        self._warn(f"{missing}: the run waits for nodes, {scale.wait_s:g} s at most (scale.wait_s)")
        deadline = time.monotonic() + scale.wait_s
        with placement.reserved(scale, self._counts[0]) as reservation:
            while time.monotonic() < deadline:
                self._read_status()
                if self._should_stop():
                    return None
                if placement.is_placed(reservation):
                    return self._counts[0]
                if (count := placement.placeable_workers(scale, self._counts[1:])) is not None:
                    return count
                time.sleep(POLL_S)
        raise PlacementError(f"{missing} for {scale.wait_s:g} s (scale.wait_s); {self._kept()}")

    def _follow(self, group: WorkerGroup) -> bool:
        """Wait until a worker group ends, stopping it if need be; return whether a stop was requested.

        A group that is asked to stop before it trains has nothing to write, and is not waited for.
        """
        stopping = stop_requested = False
        next_try = math.inf
        request = placement.GrowthRequest(self._config.scale, self._counts, group.workers)
        with closing(group), closing(request) as growth:
            while group.is_running():
                status = self._read_status()
                nodes = status.nodes
                now = time.monotonic()
                if nodes and next_try == math.inf:
                    growth.is_placeable()  # an autoscaler sees the request from now on
                    next_try = now + self._grow_s
                if not stop_requested and self._should_stop():
                    stop_requested = True
                    self._on_status(replace(status, stopping=True))
                if stop_requested and status.progress is None:
                    ray.get(self._actor.start_group.remote())  # the workers may write nothing from now on
                    break
                should_stop = stop_requested or self._loses_node(nodes)
                if now > next_try and not stopping:
                    next_try = now + self._grow_s
                    should_stop = should_stop or self._can_grow(group.workers, growth)
                if should_stop and not stopping:
                    self._actor.request_stop.remote()
                    stopping = True
                time.sleep(POLL_S)
        return stop_requested

    def _loses_node(self, nodes: frozenset[str]) -> bool:
        """Return whether the driver's node or one of `nodes` drains; warn of each once."""
        draining = placement.draining_nodes() & (nodes | {self._own_node})
        if draining - self._announced:
            self._announced |= draining
            addresses = ", ".join(placement.node_addresses(draining))
            self._warn(f"{addresses} leaves the cluster: writing a checkpoint")
        return bool(draining)

    def _can_grow(self, workers: int, growth: placement.GrowthRequest) -> bool:
        if not growth.is_placeable():
            return False
        self._grow_s *= 2  # another run may use the resources first, again and again
        wanted = placement.describe_workers(self._config.scale, workers)
        self._warn(f"there is room for more than {wanted}: writing a checkpoint")
        return True

    def _handle_failure(self, group: WorkerGroup, status: RunStatus, failures: int) -> None:
        """Warn that the run goes on, or raise a WorkerError after more than RETRIES failures in a row."""
        if failures > RETRIES:
            what = f"the workers failed {failures} times without a new checkpoint, the last time with: "
            raise WorkerError(f"{what}{group.error}\n{self._kept()}") from group.error
        lost = placement.node_addresses(status.nodes, alive=False)
        what = f"lost {', '.join(lost)}" if lost else self._reason(group, status)
        self._warn(f"{what}; the run goes on from {self._images() / 1000:g} kimg")

    def _reason(self, group: WorkerGroup, status: RunStatus) -> str:
        assert group.error is not None
        timeout_s = self._config.scale.collective_timeout_s
        return failure_reason(group.error, workers=group.workers, waiting=status.waiting, timeout_s=timeout_s)

    def _images(self) -> int:
        patience = self._patience()
        while True:
            try:
                return states.newest_images(self._config.run_uri)
            except OutageError as error:
                patience.wait_or_raise(error, 0)

    def _patience(self) -> Patience:
        return Patience(self._config.storage.max_outage_s, self._should_stop)

    def _kept(self) -> str:
        return _kept(self._config.run_uri)

    def _warn(self, sentence: str) -> None:
        ray.get(self._actor.warn.remote(sentence, repeat=True))
        self._read_status()

    def _read_status(self) -> RunStatus:
        """Return the status, after `on_status` was called with it."""
        require_alive()
        status: RunStatus = ray.get(self._actor.read.remote())
        self._on_status(status)
        return status


def _kept(run_uri: str) -> str:
    try:
        return f"the run is kept as it was at {states.newest_images(run_uri) / 1000:g} kimg"
    except StorageError:
        return "the run is kept as its last checkpoint has it"
