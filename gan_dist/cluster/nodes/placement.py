"""Placement of workers on nodes now, by Ray's own scheduler, which knows the reservations of others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

import ray
from ray._private.state import state as cluster_state
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from gan_dist.cluster.nodes.resources import cluster_nodes, worker_capacity
from gan_dist.config import ScaleConfig

PLACED_S = 5.0
"""Seconds within which the scheduler places what fits."""


def placeable_workers(scale: ScaleConfig, counts: Sequence[int], placed: int = 0) -> int | None:
    """Return the first of some numbers of workers that can be placed now, or None; `placed` already are."""
    draining = draining_nodes()
    capacity = worker_capacity(scale, [node for node in cluster_nodes() if node.id not in draining])
    for count in counts:
        if count <= capacity:
            with reserved(scale, count - placed) as reservation:
                if is_placed(reservation, PLACED_S):
                    return count
    return None


class GrowthRequest:
    """A pending request for more workers than the `workers` of a group, which an autoscaler sees.

    `counts` are the numbers of workers that the run may have, the most wanted first.
    """

    def __init__(self, scale: ScaleConfig, counts: Sequence[int], workers: int) -> None:
        self._scale, self._workers = scale, workers
        self._larger = [count for count in counts if count > workers]
        self._reservation: PlacementGroup | None = None
        self._request = ExitStack()

    def is_placeable(self) -> bool:
        """Return whether more workers can be placed; called after the group's workers have been placed."""
        if not self._larger:
            return False
        if self._reservation is None:
            more = reserved(self._scale, self._larger[0] - self._workers)
            self._reservation = self._request.enter_context(more)
        if is_placed(self._reservation):
            return True
        return placeable_workers(self._scale, self._larger, placed=self._workers) is not None

    def close(self) -> None:
        """Withdraw the request."""
        self._request.close()


@contextmanager
def reserved(scale: ScaleConfig, count: int) -> Iterator[PlacementGroup]:
    """Request resources for `count` workers; while they are missing, an autoscaler sees the request."""
    reservation = placement_group([worker_resources(scale)] * count, strategy="PACK")
    try:
        yield reservation
    finally:
        remove_placement_group(reservation)


def is_placed(reservation: PlacementGroup, within_s: float = 0.1) -> bool:
    """Return whether the requested resources are reserved."""
    return bool(reservation.wait(within_s))


def worker_resources(scale: ScaleConfig) -> dict[str, float]:
    """Return the resources that a worker reserves."""
    wanted = {"CPU": scale.cpus_per_worker, "GPU": scale.gpus_per_worker}
    return {key: value for key, value in wanted.items() if value}


def describe_workers(scale: ScaleConfig, count: int) -> str:
    """Return a number of workers and their resources in words."""
    wanted = worker_resources(scale).items()
    each = " and ".join(f"{value:g} {key}{'s' * (value != 1)}" for key, value in wanted)
    return f"{count} worker{'s' * (count != 1)} of {each}"


def draining_nodes() -> frozenset[str]:
    """Return the ids of the nodes that are being drained: preempted, or by `ray drain-node`."""
    return frozenset(cluster_state.get_draining_nodes())


def node_addresses(nodes: frozenset[str], *, alive: bool = True) -> list[str]:
    """Return the addresses of those of `nodes` that are alive, or of those that are not."""
    found = [node for node in ray.nodes() if node["NodeID"] in nodes and node["Alive"] is alive]
    return sorted(node["NodeManagerAddress"] for node in found)
