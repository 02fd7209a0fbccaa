"""What a cluster can ever hold: workers by CPUs and GPUs, processes by memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import ray

from gan_dist.config import ScaleConfig
from gan_dist.core import host
from gan_dist.core.errors import CapacityError, Problem

NODE_GROUP = "ray.io/node-group"
"""Ray's label of a node's kind."""
PROCESS_BYTES = 0.7e9
"""Memory of a process that has imported Ray and torch, before it does anything."""


@dataclass(frozen=True)
class Node:
    """A machine of a cluster."""

    cpus: float
    gpus: float
    memory: float = 0.0
    """Bytes that processes and objects may take; 0 where that is unknown."""
    objects: float = 0.0
    """Bytes of these that Ray's object store keeps for itself."""
    group: str = ""
    """Its kind in the cluster's description, where `ray up` or Kubernetes started it; else empty."""


def this_machine() -> Node:
    """Return what a Ray that is started here holds."""
    import torch

    shm = host.shm_bytes()
    objects = host.object_store_bytes(host.free_memory_bytes(), shm[1] if shm else 0)
    return Node(host.cores(), torch.cuda.device_count(), host.memory_bytes(), objects)


def nodes_up(without: frozenset[str] = frozenset()) -> list[Node]:
    """Return the nodes of the cluster that this process is connected to, some left out by their ids."""
    found = []
    for node in ray.nodes():
        if node["Alive"] and node["NodeID"] not in without:
            has = node["Resources"]
            objects = has.get("object_store_memory", 0.0)
            memory = has.get("memory", 0.0) + objects
            group = node["Labels"].get(NODE_GROUP, "")
            found.append(Node(has.get("CPU", 0.0), has.get("GPU", 0.0), memory, objects, group))
    return found


def may_grow(nodes: list[Node]) -> bool:
    """Tell whether nodes may be added when they are wanted: by whoever started those that there are."""
    return any(node.group for node in nodes)


def workers_held(scale: ScaleConfig, nodes: list[Node]) -> int:
    """Return how many workers the nodes hold at a time."""
    return sum(_workers_on(scale, node) for node in nodes)


def _workers_on(scale: ScaleConfig, node: Node) -> int:
    fits, each = math.floor(node.cpus / scale.cpus_per_worker), scale.gpus_per_worker
    if not each:
        return fits
    # A worker's part is of one GPU: what is left of two does not make up for it.
    return min(fits, int(node.gpus) * math.floor(1 / each) if each < 1 else math.floor(node.gpus / each))


def processes(scale: ScaleConfig, *, trial: bool) -> int:
    """Return the processes of a run: workers, their controller, and the actor of a trial that starts them.

    A trial of one worker is that one process.
    """
    if trial:
        return 1 if scale.workers == 1 else scale.workers + 2
    return scale.workers + 1


def trials_at_once(scale: ScaleConfig, nodes: list[Node], most: int | None) -> int:
    """Return how many trials run at a time: what can be placed, and `most` at most.

    On a cluster that adds nodes it is `most` if given, otherwise what fits now, and at least 1.
    """
    fits = workers_held(scale, nodes) // scale.workers
    return most or max(1, fits) if may_grow(nodes) else min(most or fits, fits)


def require_room(scale: ScaleConfig, nodes: list[Node], where: str, *, evaluating: bool = False) -> None:
    """Refuse what can never be placed, or whose processes alone are more than all memory.

    Where nodes are added when they are wanted, only what no node can give is refused.

    Args:
        scale: What the run asks for.
        nodes: Every node.
        where: What the nodes are, for the message.
        evaluating: Whether an evaluation asks: its workers exchange no gradients, and the message names the
            options of its verb instead of configuration keys.

    Raises:
        CapacityError: with the arithmetic and the most that fits.
    """
    _require_divisible(scale, evaluating=evaluating)
    if may_grow(nodes):
        return
    fits = workers_held(scale, nodes)
    if fits < scale.fewest:
        raise CapacityError(_too_many(scale, nodes, where, fits, evaluating=evaluating))
    total = sum(node.memory for node in nodes)
    count = processes(scale, trial=False)
    if all(node.memory for node in nodes) and count * PROCESS_BYTES > total:
        most = max(1, math.floor(total / PROCESS_BYTES) - 1)
        given = partial(_given, "workers", evaluating=evaluating)
        raise CapacityError(
            f"{given(scale.workers)} and their controller are {count} processes of "
            f"{PROCESS_BYTES / 1e9:g} GB before their networks, {count * PROCESS_BYTES / 1e9:.1f} GB",
            f"{where} has {total / 1e9:.1f} GB of memory: use {given(most)} or fewer, or add memory",
        )


def short_of_memory(
    scale: ScaleConfig, nodes: list[Node], trials: int | None = None, *, evaluating: bool = False
) -> Problem | None:
    """Return a warning where processes alone take what the object stores leave of the nodes' memory.

    Args:
        scale: What a run asks for.
        nodes: Every node.
        trials: Runs at a time, each the trial of a search; None for one run that is no trial.
        evaluating: As of `require_room`.
    """
    count = processes(scale, trial=trials is not None) * (trials or 1)
    left = sum(node.memory - node.objects for node in nodes)
    if may_grow(nodes) or not all(node.memory for node in nodes) or count * PROCESS_BYTES <= left:
        return None
    each = processes(scale, trial=True)
    remedy = f"use fewer {'--workers' if evaluating else 'scale.workers'}"
    if trials:
        remedy = f"set search.concurrent={max(1, math.floor(left / PROCESS_BYTES / each))}"
    return Problem(
        f"{count} processes of {PROCESS_BYTES / 1e9:g} GB before their networks take "
        f"{count * PROCESS_BYTES / 1e9:.1f} GB; the nodes have {left / 1e9:.1f} GB beside their object "
        "stores",
        f"{remedy}, or add memory",
    )


def idle_gpus(scale: ScaleConfig, nodes: list[Node], *, evaluating: bool = False) -> Problem | None:
    """Return a warning where nodes have GPUs and a run or evaluation asks for none."""
    gpus = sum(node.gpus for node in nodes)
    if scale.gpus_per_worker or not gpus:
        return None
    remedy = _given("gpus_per_worker", 1, evaluating=evaluating)
    return Problem(f"{gpus:g} GPUs are there and none is asked for: this runs on CPUs", f"use {remedy}")


def _given(key: str, value: float, *, evaluating: bool) -> str:
    """Return a setting as who asks would type it."""
    return f"--{key.replace('_', '-')} {value:g}" if evaluating else f"scale.{key}={value:g}"


def _require_divisible(scale: ScaleConfig, *, evaluating: bool) -> None:
    """Refuse parts of GPUs that no cluster gives."""
    each = scale.gpus_per_worker
    given = _given("gpus_per_worker", each, evaluating=evaluating)
    if each > 1 and not each.is_integer():
        raise CapacityError(
            f"{given}: Ray reserves a part of one GPU, or whole ones",
            f"use {math.floor(each)} or {math.ceil(each)}",
        )
    if not evaluating and scale.workers > 1 and 0 < each <= 0.5:
        together = min(scale.workers, math.floor(1 / each))
        raise CapacityError(
            f"{given}: {together} of the {scale.workers} workers could share a GPU, which NCCL refuses",
            "use 1, or scale.workers=1",
        )


def _too_many(scale: ScaleConfig, nodes: list[Node], where: str, fits: int, *, evaluating: bool) -> str:
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    key, count = "workers" if scale.min_workers is None else "min_workers", scale.fewest
    given = partial(_given, key, evaluating=evaluating)
    need = f"{count} x {scale.cpus_per_worker:g} = {count * scale.cpus_per_worker:g} CPUs"
    if scale.gpus_per_worker:
        need += f" and {count} x {scale.gpus_per_worker:g} = {count * scale.gpus_per_worker:g} GPUs"
    remedy = f"use {given(fits)}" if fits else "ask for less per worker"
    return (
        f"{given(count)} needs {need}; {where} has {cpus:g} CPUs and {gpus:g} GPUs on "
        f"{len(nodes)} node{'s' * (len(nodes) != 1)}, which hold {fits} such workers: {remedy}, or add nodes"
    )
