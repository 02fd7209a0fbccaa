"""Joining a cluster or starting a local one, and whether it can ever hold what is asked of it."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager

import ray

from gan_dist.config import ScaleConfig
from gan_dist.errors import CapacityError


@contextmanager
def connect() -> Iterator[None]:
    """Be connected to a cluster.

    It is the one that this process is connected to already, or the one in RAY_ADDRESS, or else a local one
    that is started now and ends with the context.
    """
    if ray.is_initialized():
        yield
        return
    address = os.environ.get("RAY_ADDRESS")
    # Ray's own chatter stays in its log files; what a user must know comes from here.
    ray.init(
        address=address or "local",
        include_dashboard=None if address else False,
        logging_level=logging.ERROR,
        log_to_driver=False,
    )
    try:
        yield
    finally:
        ray.shutdown()


@contextmanager
def cluster(scale: ScaleConfig) -> Iterator[None]:
    """Be connected to a cluster that has room for a run, as `connect` finds one.

    Raises:
        CapacityError: the workers can never be placed.
    """
    if not ray.is_initialized() and "RAY_ADDRESS" not in os.environ:
        # Known at once, so that nothing has to be started for it.
        require_room(scale, [(float(os.cpu_count() or 1), float(_local_gpus()))], "this machine")
    with connect():
        _require_room_here(scale)
        yield


def room(scale: ScaleConfig) -> int:
    """Return how many workers the cluster holds at a time."""
    return sum(workers_on(scale, cpus, gpus) for cpus, gpus in _nodes())


def _require_room_here(scale: ScaleConfig) -> None:
    require_room(scale, _nodes(), f"the cluster at {ray.get_runtime_context().gcs_address}")


def _nodes() -> list[tuple[float, float]]:
    """Return the CPUs and GPUs of every node that is up."""
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    return [(node.get("CPU", 0.0), node.get("GPU", 0.0)) for node in alive]


def require_room(scale: ScaleConfig, nodes: list[tuple[float, float]], where: str) -> None:
    """Refuse what can never be placed.

    Args:
        scale: What the run asks for.
        nodes: The CPUs and GPUs of every node.
        where: What the nodes are, for the message.

    Raises:
        CapacityError: with the arithmetic and the most that fits.
    """
    _require_divisible(scale)
    fits = sum(workers_on(scale, cpus, gpus) for cpus, gpus in nodes)
    if fits >= scale.fewest:
        return
    cpus, gpus = sum(node[0] for node in nodes), sum(node[1] for node in nodes)
    key = "scale.workers" if scale.min_workers is None else "scale.min_workers"
    need = f"{scale.fewest} x {scale.cpus_per_worker:g} = {scale.fewest * scale.cpus_per_worker:g} CPUs"
    if scale.gpus_per_worker:
        need += f" and {scale.fewest} x {scale.gpus_per_worker:g} = "
        need += f"{scale.fewest * scale.gpus_per_worker:g} GPUs"
    remedy = f"use {key}={fits}" if fits else "ask for less per worker"
    raise CapacityError(
        f"{key}={scale.fewest} needs {need}; {where} has {cpus:g} CPUs and {gpus:g} GPUs on "
        f"{len(nodes)} node{'s' * (len(nodes) != 1)}, which hold {fits} such workers: {remedy}, or add nodes"
    )


def _require_divisible(scale: ScaleConfig) -> None:
    """Refuse parts of GPUs that no cluster gives."""
    each = scale.gpus_per_worker
    if each > 1 and not each.is_integer():
        raise CapacityError(
            f"scale.gpus_per_worker={each:g}: Ray reserves a part of one GPU, or whole ones; use "
            f"{math.floor(each)} or {math.ceil(each)}"
        )
    if scale.workers > 1 and 0 < each <= 0.5:
        together = min(scale.workers, math.floor(1 / each))
        raise CapacityError(
            f"scale.gpus_per_worker={each:g}: {together} of the {scale.workers} workers could share a GPU, "
            "which NCCL refuses; use 1, or scale.workers=1"
        )


def workers_on(scale: ScaleConfig, cpus: float, gpus: float) -> int:
    """Return how many workers a node with these resources holds at a time."""
    fits, each = math.floor(cpus / scale.cpus_per_worker), scale.gpus_per_worker
    if not each:
        return fits
    # A worker's part is of one GPU: what is left of two does not make up for it.
    return min(fits, int(gpus) * math.floor(1 / each) if each < 1 else math.floor(gpus / each))


def _local_gpus() -> int:
    import torch

    return torch.cuda.device_count()
