"""Whether a cluster's nodes can work together, asked of each of them before anything is started."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gan_dist.core import host, storage
from gan_dist.core.errors import ClusterError, GanDistError, Problem
from gan_dist.core.storage import StorageOptions
from gan_dist.data.builtin import PREFIX
from gan_dist.data.shards.manifest import MANIFEST

TIMEOUT_S = 60.0
STORAGE, IMAGES = "storage.path", "data.path"
UNSEEN = {
    STORAGE: "it does not see what the driver writes there",
    IMAGES: f"it does not see the {MANIFEST} there",
}
LOG = logging.getLogger("gan_dist")


@dataclass(frozen=True)
class Facts:
    """What a node says of itself."""

    versions: dict[str, str]
    unseen: Mapping[str, str] = field(default_factory=dict)
    """Why it cannot see a place that it must, by the setting that names it."""
    shm: tuple[int, int] | None = None
    """Size and free space of its /dev/shm, in bytes."""
    gloo: str | None = None
    """What GLOO_SOCKET_IFNAME is there."""
    interfaces: tuple[str, ...] = ()
    """Names of its network interfaces."""


@dataclass(frozen=True)
class NodeAnswer:
    """A node that is up, and its facts, or why it gave none."""

    place: str
    objects: float
    """Bytes of its object store."""
    facts: Facts | Problem


def check_nodes(folder: str, images: str) -> None:
    """Refuse a cluster of several nodes on which a run or search would fail later.

    Every node must see the folder and the images as the driver does, and have the driver's versions, of torch
    in whatever build. A node whose object store does not fit into its shared memory is warned of.

    Args:
        folder: Of the run or search.
        images: What `data.path` names.

    Raises:
        ClusterError: with every node's problems.
    """
    nodes = nodes_alive()
    places = places_to_see(folder, images)
    if len(nodes) == 1:
        answers = [NodeAnswer("this machine", _objects(nodes[0]), _facts({}, storage.options()))]
    else:
        answers = ask_nodes(nodes, places, TIMEOUT_S)
    problems = node_problems(host.versions(), answers, places)
    if problems:
        raise ClusterError("the cluster's nodes cannot work together:\n" + "\n".join(map(str, problems)))
    for one in answers:
        if small := small_shm(one):
            LOG.warning("warning: %s", small)


def nodes_alive() -> list[dict[str, Any]]:
    """Return what Ray says of each node that is up."""
    return [node for node in ray.nodes() if node["Alive"]]


def places_to_see(folder: str, images: str) -> dict[str, str]:
    """Return what every node must see, by the setting that names it; built-in images are everywhere.

    Args:
        folder: Of the run or search, to which the driver writes.
        images: What `data.path` names.
    """
    return {STORAGE: folder} if images.startswith(PREFIX) else {STORAGE: folder, IMAGES: images}


def ask_nodes(
    nodes: Sequence[dict[str, Any]], places: Mapping[str, str], timeout_s: float
) -> list[NodeAnswer]:
    """Return what each node says of itself.

    Args:
        nodes: What Ray says of them.
        places: What each is asked whether it sees it: of `storage.path`, what is written there now.
        timeout_s: How long to wait for all of them.
    """
    files = {key: storage.join(place, MANIFEST) for key, place in places.items()}
    if STORAGE not in places:
        return _asked(nodes, files, timeout_s)
    marker = storage.join(places[STORAGE], f".seen-by-all-{uuid.uuid4().hex}")
    storage.write_bytes(marker, b"")
    try:
        return _asked(nodes, {**files, STORAGE: marker}, timeout_s)
    finally:
        storage.delete_file(marker)


def _asked(nodes: Sequence[dict[str, Any]], files: Mapping[str, str], timeout_s: float) -> list[NodeAnswer]:
    ask = ray.remote(num_cpus=0, max_retries=0)(_facts)
    running = [
        ask.options(scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)).remote(
            files, storage.options()
        )
        for node in nodes
    ]
    ray.wait(running, num_returns=len(running), timeout=timeout_s)
    answers = []
    for node, answer in zip(nodes, running, strict=True):
        facts: Facts | Problem
        try:
            facts = ray.get(answer, timeout=0)
        except GetTimeoutError:
            facts = Problem(f"did not answer within {timeout_s:g} s", "look at it, or take it out")
        except RayError as error:
            last = str(error).strip().splitlines()[-1]
            facts = Problem(
                f"could not say what it has ({last})", "install the project on all, or submit a job"
            )
        place = f"{node['NodeManagerAddress']} (node {node['NodeID'][:8]})"
        answers.append(NodeAnswer(place, _objects(node), facts))
    return answers


def _objects(node: dict[str, Any]) -> float:
    return float(node["Resources"].get("object_store_memory", 0.0))


def _facts(files: Mapping[str, str], options: StorageOptions) -> Facts:
    storage.configure(options)
    unseen = {}
    for key, file in files.items():
        try:
            if not storage.exists(file):
                unseen[key] = UNSEEN[key]
        except GanDistError as error:
            unseen[key] = str(error)
    return Facts(
        host.versions(),
        unseen,
        host.shm_bytes(),
        os.environ.get("GLOO_SOCKET_IFNAME"),
        tuple(name for _, name in socket.if_nameindex()),
    )


def small_shm(answer: NodeAnswer) -> Problem | None:
    """Return a warning if a node's shared memory is too small for its object store, which is then on disk."""
    if isinstance(answer.facts, Problem) or answer.facts.shm is None or answer.objects <= answer.facts.shm[0]:
        return None
    size, wanted = answer.facts.shm[0], answer.objects
    return Problem(
        f"{answer.place}: /dev/shm has {size / 1e9:.2f} GB, Ray's object store {wanted / 1e9:.1f} GB: it "
        "keeps objects in a file on disk, and streaming images waits for it",
        host.more_shm(wanted, size),
    )


def _differ(name: str, one: str, other: str | None) -> bool:
    if name == "torch" and other is not None:
        # Nodes without a GPU may have PyTorch's build for CPUs (2.15.0+cpu) of the same release.
        one, other = one.partition("+")[0], other.partition("+")[0]
    return one != other


def node_problems(
    here: dict[str, str], answers: Sequence[NodeAnswer], places: Mapping[str, str]
) -> list[Problem]:
    """Return the problems that keep nodes from working together.

    Args:
        here: The driver's versions.
        answers: One of each node.
        places: Paths and URIs that the nodes were asked about, by configuration key.
    """
    problems = []
    for one in answers:
        if isinstance(one.facts, Problem):
            problems.append(replace(one.facts, what=f"{one.place} {one.facts.what}"))
            continue
        problems += [
            Problem(
                f"{one.place} has {name} {one.facts.versions.get(name)}, the driver {version}",
                "install the same on all",
            )
            for name, version in here.items()
            if _differ(name, version, one.facts.versions.get(name))
        ]
        problems += [
            Problem(
                f"{one.place} cannot use {key}, where {storage.redact(places[key])} is: {why}",
                "use a bucket or a folder that all nodes share",
                (key,),
            )
            for key, why in one.facts.unseen.items()
        ]
    return problems
