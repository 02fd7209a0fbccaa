"""Whether a cluster's nodes can work together, asked of each of them before anything is started."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gan_dist import machine, storage
from gan_dist.errors import ClusterError, GanDistError
from gan_dist.storage import StorageOptions

TIMEOUT_S = 60.0
LOG = logging.getLogger("gan_dist")


@dataclass(frozen=True)
class Facts:
    """What a node says of itself."""

    versions: dict[str, str]
    storage: str | None
    """Why it cannot see what the driver has written; None where it can."""
    shm: tuple[int, int] | None = None
    """Size and free space of its /dev/shm, in bytes."""
    gloo: str | None = None
    """What GLOO_SOCKET_IFNAME is there."""
    interfaces: tuple[str, ...] = ()
    """Names of its network interfaces."""


@dataclass(frozen=True)
class NodeAnswer:
    """A node that is up, and what it says, or why it says nothing."""

    place: str
    objects: float
    """Bytes of its object store."""
    facts: Facts | str


def check_nodes(uri: str) -> None:
    """Refuse a cluster of several nodes on which a run or search would fail later.

    Every node must see the folder at `uri` as the driver does, and have the driver's versions. A node whose
    object store does not fit into its shared memory is warned of.

    Raises:
        ClusterError: with every node's problems.
    """
    nodes = nodes_alive()
    if len(nodes) == 1:
        answers = [NodeAnswer("this machine", _objects(nodes[0]), _facts(None, storage.options()))]
    else:
        answers = ask_nodes(nodes, uri, TIMEOUT_S)
    problems = node_problems(machine.versions(), answers, uri)
    if problems:
        raise ClusterError("the cluster's nodes cannot work together:\n" + "\n".join(problems))
    for one in answers:
        if small := small_shm(one):
            LOG.warning("warning: %s", small)


def nodes_alive() -> list[dict[str, Any]]:
    """Return what Ray says of each node that is up."""
    return [node for node in ray.nodes() if node["Alive"]]


def ask_nodes(nodes: Sequence[dict[str, Any]], uri: str | None, timeout_s: float) -> list[NodeAnswer]:
    """Return what each node says of itself.

    Args:
        nodes: What Ray says of them.
        uri: A folder of which is asked whether each sees what is written there; None asks nothing of it.
        timeout_s: How long to wait for all of them.
    """
    marker = uri and storage.join(uri, f".seen-by-all-{uuid.uuid4().hex}")
    if marker:
        storage.write_bytes(marker, b"")
    try:
        return _asked(nodes, marker, timeout_s)
    finally:
        if marker:
            storage.delete_file(marker)


def _asked(nodes: Sequence[dict[str, Any]], marker: str | None, timeout_s: float) -> list[NodeAnswer]:
    ask = ray.remote(num_cpus=0, max_retries=0)(_facts)
    running = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            marker, storage.options()
        )
        for node in nodes
    ]
    ray.wait(running, num_returns=len(running), timeout=timeout_s)
    answers = []
    for node, answer in zip(nodes, running, strict=True):
        facts: Facts | str
        try:
            facts = ray.get(answer, timeout=0)
        except GetTimeoutError:
            facts = f"did not answer within {timeout_s:g} s: look at it, or take it out"
        except RayError as error:
            last = str(error).strip().splitlines()[-1]
            facts = f"could not say what it has ({last}): install the project on all, or submit a job"
        place = f"{node['NodeManagerAddress']} (node {node['NodeID'][:8]})"
        answers.append(NodeAnswer(place, _objects(node), facts))
    return answers


def _objects(node: dict[str, Any]) -> float:
    return float(node["Resources"].get("object_store_memory", 0.0))


def _facts(marker: str | None, options: StorageOptions) -> Facts:
    storage.configure(options)
    seen = None
    try:
        if marker and not storage.exists(marker):
            seen = "it does not see what the driver writes there"
    except GanDistError as error:
        seen = str(error)
    return Facts(
        machine.versions(),
        seen,
        machine.shm_bytes(),
        os.environ.get("GLOO_SOCKET_IFNAME"),
        tuple(name for _, name in socket.if_nameindex()),
    )


def small_shm(answer: NodeAnswer) -> str | None:
    """Return a warning where a node keeps objects on disk, its shared memory being too small for them."""
    if isinstance(answer.facts, str) or answer.facts.shm is None or answer.objects <= answer.facts.shm[0]:
        return None
    wanted = answer.objects / 1e9
    return (
        f"{answer.place}: /dev/shm has {answer.facts.shm[0] / 1e9:.2f} GB, Ray's object store {wanted:.1f} "
        "GB: it keeps objects in a file on disk, and streaming images waits for it; docker run "
        f"--shm-size={wanted * 1.1:.0f}g, or ray start --object-store-memory={int(answer.facts.shm[0] * 0.9)}"
    )


def node_problems(here: dict[str, str], answers: Sequence[NodeAnswer], uri: str | None) -> list[str]:
    """Return what keeps nodes from working together, a sentence each.

    Args:
        here: The driver's versions.
        answers: What the nodes say.
        uri: The folder that they were asked about.
    """
    problems = []
    for one in answers:
        if isinstance(one.facts, str):
            problems.append(f"{one.place} {one.facts}")
            continue
        problems += [
            f"{one.place} has {name} {one.facts.versions.get(name)}, the driver {version}: install the same "
            "on all"
            for name, version in here.items()
            if one.facts.versions.get(name) != version
        ]
        if one.facts.storage is not None and uri is not None:
            problems.append(
                f"{one.place} cannot use storage.path, where {storage.shown(uri)} is: {one.facts.storage}; "
                "use a bucket or a folder that all nodes share"
            )
    return problems
