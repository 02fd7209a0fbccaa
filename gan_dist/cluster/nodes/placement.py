"""Which nodes a run can have now: asked of Ray's own scheduler, which knows what others hold."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import ray
from ray._private.state import state as cluster_state
from ray.util.placement_group import PlacementGroup, placement_group, remove_placement_group

from gan_dist.cluster.nodes.resources import nodes_up, workers_held
from gan_dist.config import ScaleConfig

PLACED_S = 5.0
"""Seconds within which the scheduler places what there is room for."""
AT_ONCE_S = 0.1


def placeable(scale: ScaleConfig, counts: Sequence[int], held: int = 0) -> int | None:
    """Return the first of some numbers of workers that can be placed now.

    Args:
        scale: What a worker reserves.
        counts: The numbers, the most wanted first.
        held: Workers that are placed already, and count.
    """
    most = workers_held(scale, nodes_up(without=leaving()))
    for count in counts:
        if count <= most:
            with reserved(scale, count - held) as group:
                if is_placed(group, PLACED_S):
                    return count
    return None


class More:
    """Room for more workers than a group has, asked for while it trains: an autoscaler sees that.

    Args:
        scale: What a worker reserves.
        counts: The numbers of workers that there may be, the most wanted first.
        workers: How many there are.
    """

    def __init__(self, scale: ScaleConfig, counts: Sequence[int], workers: int) -> None:
        self._scale, self._workers = scale, workers
        self._larger = [count for count in counts if count > workers]
        self._asked: PlacementGroup | None = None

    def ask(self) -> bool:
        """Tell whether there is such room; called when the workers that there are have been placed."""
        if not self._larger:
            return False
        if self._asked is None:
            self._asked = _request(self._scale, self._larger[0] - self._workers)
        if is_placed(self._asked):
            return True
        return placeable(self._scale, self._larger, held=self._workers) is not None

    def close(self) -> None:
        """Ask no longer."""
        if self._asked is not None:
            remove_placement_group(self._asked)


@contextmanager
def reserved(scale: ScaleConfig, count: int) -> Iterator[PlacementGroup]:
    """Ask for room for some workers; while there is none, an autoscaler sees that it is wanted."""
    group = _request(scale, count)
    try:
        yield group
    finally:
        remove_placement_group(group)


def _request(scale: ScaleConfig, count: int) -> PlacementGroup:
    group: PlacementGroup = placement_group([resources(scale)] * count, strategy="PACK")
    return group


def is_placed(group: PlacementGroup, within_s: float = AT_ONCE_S) -> bool:
    """Tell whether what was asked for is there."""
    return bool(group.wait(within_s))


def resources(scale: ScaleConfig) -> dict[str, float]:
    """Return what a worker reserves."""
    wanted = {"CPU": scale.cpus_per_worker, "GPU": scale.gpus_per_worker}
    return {key: value for key, value in wanted.items() if value}


def said(scale: ScaleConfig, count: int) -> str:
    """Return in words what some workers need."""
    wanted = " and ".join(f"{value:g} {key}{'s' * (value != 1)}" for key, value in resources(scale).items())
    return f"{count} worker{'s' * (count != 1)} of {wanted}"


def leaving() -> frozenset[str]:
    """Return the ids of the nodes that are being drained: preempted, or by `ray drain-node`."""
    return frozenset(cluster_state.get_draining_nodes())


def addresses(nodes: frozenset[str], *, alive: bool = True) -> list[str]:
    """Return the addresses of those of some nodes that are alive, or of those that are not."""
    found = [node for node in ray.nodes() if node["NodeID"] in nodes and node["Alive"] is alive]
    return sorted(node["NodeManagerAddress"] for node in found)
