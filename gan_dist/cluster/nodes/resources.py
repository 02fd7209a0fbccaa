"""Capacity of a cluster: workers by CPUs and GPUs, processes by memory."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial
from typing import Any

import ray

from gan_dist.config import ScaleConfig
from gan_dist.core import host
from gan_dist.core.errors import CapacityError, Problem

NODE_GROUP = "ray.io/node-group"
"""Ray's label of the node type."""
INSTANCE_TYPE = "instance-type"
"""Label of the instance type, for prices: `ray start --labels instance-type=g5.xlarge`."""
PROCESS_BYTES = 0.7e9
"""Memory of a process that has imported Ray and torch, before it does anything."""


@dataclass(frozen=True)
class Node:
    """A machine of a cluster."""

    cpus: float
    gpus: float
    memory: float = 0.0
    """Bytes for processes and the object store; 0 where that is unknown."""
    object_store: float = 0.0
    """Bytes of `memory` that Ray's object store reserves."""
    group: str = ""
    """Node type in the cluster's description; empty unless `ray up` or Kubernetes started the node."""
    id: str = ""
    address: str = ""
    instance: str = ""
    """Instance type; empty where no label says it."""


def local_node() -> Node:
    """Return the node of a Ray that is started on this machine."""
    shm = host.shm_bytes()
    object_store = host.object_store_bytes(host.free_memory_bytes(), shm[1] if shm else 0)
    return Node(host.cores(), host.gpus(), host.memory_bytes(), object_store)


def cluster_nodes() -> list[Node]:
    """Return the nodes that are alive in the cluster that this process is connected to."""
    return [_node(record) for record in ray.nodes() if record["Alive"]]


def _node(record: dict[str, Any]) -> Node:
    names = ("CPU", "GPU", "memory", "object_store_memory")
    cpus, gpus, memory, object_store = (record["Resources"].get(name, 0.0) for name in names)
    labels, address = record["Labels"], record["NodeManagerAddress"]
    group, instance = labels.get(NODE_GROUP, ""), labels.get(INSTANCE_TYPE, "")
    return Node(cpus, gpus, memory + object_store, object_store, group, record["NodeID"], address, instance)


def autoscales(nodes: list[Node]) -> bool:
    """Return whether a launcher started the nodes, which adds more on demand."""
    return any(node.group for node in nodes)


def worker_capacity(scale: ScaleConfig, nodes: list[Node]) -> int:
    """Return how many workers fit on the nodes at a time."""
    return sum(_workers_on(scale, node) for node in nodes)


def _workers_on(scale: ScaleConfig, node: Node) -> int:
    fits, each = math.floor(node.cpus / scale.cpus_per_worker), scale.gpus_per_worker
    if not each:
        return fits
    # A share is of one GPU: the remainders of two GPUs do not add up.
    return min(fits, int(node.gpus) * math.floor(1 / each) if each < 1 else math.floor(node.gpus / each))


def process_count(scale: ScaleConfig, *, trial: bool) -> int:
    """Return the number of processes of a run: workers, their controller, and the actor of a trial."""
    if trial:  # a trial with one worker is one process
        return 1 if scale.workers == 1 else scale.workers + 2
    return scale.workers + 1


def concurrent_trials(scale: ScaleConfig, nodes: list[Node], limit: int | None) -> int:
    """Return the number of trials that run at a time: as many as fit, up to `limit`.

    On a cluster that adds nodes it is `limit` if given, otherwise as many as fit now, and at least 1.
    """
    fits = worker_capacity(scale, nodes) // scale.workers
    return limit or max(1, fits) if autoscales(nodes) else min(limit or fits, fits)


def require_capacity(scale: ScaleConfig, nodes: list[Node], where: str, *, evaluating: bool = False) -> None:
    """Refuse workers that can never be placed, or whose bare processes exceed the memory of all nodes.

    On a cluster that adds nodes, only impossible shares of GPUs are refused. The message names the machine or
    cluster as `where`. Workers of an evaluation (`evaluating`) exchange no gradients; then the message names
    the options of the verb instead of configuration keys.

    Raises:
        CapacityError: with the arithmetic and the number of workers that fits.
    """
    _require_divisible(scale, evaluating=evaluating)
    if autoscales(nodes):
        return
    _require_cpus_and_gpus(scale, nodes, where, evaluating=evaluating)
    total = sum(node.memory for node in nodes)
    count = process_count(scale, trial=False)
    if all(node.memory for node in nodes) and count * PROCESS_BYTES > total:
        most = max(1, math.floor(total / PROCESS_BYTES) - 1)
        workers = partial(_setting, "workers", evaluating=evaluating)
        raise CapacityError(
            f"{workers(scale.workers)} and their controller are {count} processes of "
            f"{PROCESS_BYTES / 1e9:g} GB before their networks, {count * PROCESS_BYTES / 1e9:.1f} GB; "
            f"{where} has {total / 1e9:.1f} GB of memory",
            f"use {workers(most)} or fewer, or add memory",
            keys=("scale.workers",),
        )


def memory_warning(
    scale: ScaleConfig, nodes: list[Node], trials: int | None = None, *, evaluating: bool = False
) -> Problem | None:
    """Return a warning where bare processes exceed the memory that the nodes' object stores leave, else None.

    `trials` run at a time; None is for a run that is no trial.
    """
    count = process_count(scale, trial=trials is not None) * (trials or 1)
    left = sum(node.memory - node.object_store for node in nodes)
    if autoscales(nodes) or not all(node.memory for node in nodes) or count * PROCESS_BYTES <= left:
        return None
    remedy, key = f"use fewer {'--workers' if evaluating else 'scale.workers'}", "scale.workers"
    if trials:
        most = max(1, math.floor(left / PROCESS_BYTES / process_count(scale, trial=True)))
        remedy, key = f"set search.concurrent={most}", "search.concurrent"
    each, total = f"{PROCESS_BYTES / 1e9:g} GB before their networks", f"{count * PROCESS_BYTES / 1e9:.1f} GB"
    has = f"the nodes have {left / 1e9:.1f} GB beside their object stores"
    what = f"{count} processes of {each} take {total}; {has}"
    return Problem(what, f"{remedy}, or add memory", (key,))


def idle_gpu_warning(scale: ScaleConfig, nodes: list[Node], *, evaluating: bool = False) -> Problem | None:
    """Return a warning where nodes have GPUs and a run or evaluation requests none, else None."""
    gpus = sum(node.gpus for node in nodes)
    if scale.gpus_per_worker or not gpus:
        return None
    remedy = _setting("gpus_per_worker", 1, evaluating=evaluating)
    return Problem(f"{gpus:g} GPUs are there and none is asked for: this runs on CPUs", f"use {remedy}")


def _setting(key: str, value: float, *, evaluating: bool) -> str:
    return f"--{key.replace('_', '-')} {value:g}" if evaluating else f"scale.{key}={value:g}"


def _require_divisible(scale: ScaleConfig, *, evaluating: bool) -> None:
    each = scale.gpus_per_worker
    setting = _setting("gpus_per_worker", each, evaluating=evaluating)
    if each > 1 and not each.is_integer():
        raise CapacityError(
            f"{setting}: Ray reserves a part of one GPU, or whole ones",
            f"use {math.floor(each)} or {math.ceil(each)}",
            keys=("scale.gpus_per_worker",),
        )
    if not evaluating and scale.workers > 1 and 0 < each <= 0.5:
        together = min(scale.workers, math.floor(1 / each))
        raise CapacityError(
            f"{setting}: {together} of the {scale.workers} workers could share a GPU, which NCCL refuses",
            "use 1, or scale.workers=1",
            keys=("scale.gpus_per_worker", "scale.workers"),
        )


def _require_cpus_and_gpus(scale: ScaleConfig, nodes: list[Node], where: str, *, evaluating: bool) -> None:
    count, fits = scale.fewest, worker_capacity(scale, nodes)
    if fits >= count:
        return
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    key = "workers" if scale.min_workers is None else "min_workers"
    workers = partial(_setting, key, evaluating=evaluating)
    need = f"{count} x {scale.cpus_per_worker:g} = {count * scale.cpus_per_worker:g} CPUs"
    if scale.gpus_per_worker:
        need += f" and {count} x {scale.gpus_per_worker:g} = {count * scale.gpus_per_worker:g} GPUs"
    remedy = f"use {workers(fits)}" if fits else "ask for less per worker"
    raise CapacityError(
        f"{workers(count)} needs {need}; {where} has {cpus:g} CPUs and {gpus:g} GPUs on "
        f"{len(nodes)} node{'s' * (len(nodes) != 1)}, which hold {fits} such workers",
        f"{remedy}, or add nodes",
        keys=(f"scale.{key}",),
    )
