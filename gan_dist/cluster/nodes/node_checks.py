"""Checks of a cluster's nodes before anything is started: equal versions, shared folders, shared memory."""

from __future__ import annotations

import logging
import os
import socket
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace

import ray
from ray.exceptions import GetTimeoutError, RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gan_dist.cluster.nodes.resources import Node, cluster_nodes
from gan_dist.core import host, storage
from gan_dist.core.errors import ClusterError, GanDistError, Problem, StorageError
from gan_dist.core.storage import StorageOptions
from gan_dist.data.builtin import PREFIX
from gan_dist.data.shards.manifest import MANIFEST

TIMEOUT_S = 60.0
STORAGE, IMAGES = "storage.path", "data.path"
MISSING = {
    STORAGE: "it does not see what the driver writes there",
    IMAGES: f"it does not see the {MANIFEST} there",
}
LOG = logging.getLogger("gan_dist")


@dataclass(frozen=True)
class NodeFacts:
    """Facts about a node, collected by a task that runs there."""

    versions: dict[str, str]
    missing: Mapping[str, str] = field(default_factory=dict)
    """Reasons why the node cannot use a path, by the configuration key of the path."""
    shm: tuple[int, int] | None = None
    """Size and free space of its /dev/shm, in bytes."""
    gloo: str | None = None
    """Its GLOO_SOCKET_IFNAME."""
    interfaces: tuple[str, ...] = ()
    """Names of its network interfaces."""


@dataclass(frozen=True)
class NodeReport:
    """Facts about a node, or the problem of getting them."""

    node: str
    """Its address and id, for messages."""
    object_store: float
    """Bytes of its object store."""
    facts: NodeFacts | Problem


def check_nodes(folder: str, images: str) -> None:
    """Refuse a cluster of several nodes on which a run or search would fail later.

    Every node must see the folder and the images (`data.path`) as the driver does, and have the driver's
    versions; builds of torch may differ. Warns of a node whose shared memory is too small.

    Raises:
        ClusterError: with every node's problems.
    """
    nodes = cluster_nodes()
    paths = shared_paths(folder, images)
    if len(nodes) == 1:
        reports = [NodeReport("this machine", nodes[0].object_store, _collect_facts({}, storage.options()))]
    else:
        reports = query_nodes(nodes, paths, TIMEOUT_S)
    problems = node_problems(host.versions(), reports, paths)
    if problems:
        raise ClusterError(problems)
    for report in reports:
        if warning := shm_warning(report):
            LOG.warning("warning: %s", warning)


def shared_paths(folder: str, images: str) -> dict[str, str]:
    """Return the paths that every node must see, by configuration key; built-in images are in the package."""
    return {STORAGE: folder} if images.startswith(PREFIX) else {STORAGE: folder, IMAGES: images}


def query_nodes(nodes: Sequence[Node], paths: Mapping[str, str], timeout_s: float) -> list[NodeReport]:
    """Return a report of each node, by a task that runs there; all of them have `timeout_s`."""
    files = {key: storage.join(path, MANIFEST) for key, path in paths.items()}
    if STORAGE in paths:  # there they look for a file that this process writes, elsewhere for a manifest
        files[STORAGE] = storage.join(paths[STORAGE], f".seen-by-all-{uuid.uuid4().hex}")
        storage.write_bytes(files[STORAGE], b"")
    task = ray.remote(num_cpus=0, max_retries=0)(_collect_facts)
    strategies = [NodeAffinitySchedulingStrategy(node.id, soft=False) for node in nodes]
    try:
        running = [task.options(scheduling_strategy=at).remote(files, storage.options()) for at in strategies]
        ray.wait(running, num_returns=len(running), timeout=timeout_s)
    finally:
        if STORAGE in paths:
            with suppress(StorageError):  # an empty file; the nodes have answered
                storage.delete_file(files[STORAGE])
    return [
        NodeReport(f"{node.address} (node {node.id[:8]})", node.object_store, _facts_of(result, timeout_s))
        for node, result in zip(nodes, running, strict=True)
    ]


def _facts_of(result: ray.ObjectRef[NodeFacts], timeout_s: float) -> NodeFacts | Problem:
    try:
        return ray.get(result, timeout=0)
    except GetTimeoutError:
        return Problem(f"did not answer within {timeout_s:g} s", "look at it, or take it out")
    except RayError as error:
        last = str(error).strip().splitlines()[-1]
        return Problem(f"could not say what it has ({last})", "install the project on all, or submit a job")


def _collect_facts(files: Mapping[str, str], options: StorageOptions) -> NodeFacts:
    storage.configure(options)
    missing = {}
    for key, file in files.items():
        try:
            if not storage.exists(file):
                missing[key] = MISSING[key]
        except GanDistError as error:
            missing[key] = str(error)
    gloo, interfaces = os.environ.get("GLOO_SOCKET_IFNAME"), tuple(name for _, name in socket.if_nameindex())
    return NodeFacts(host.versions(), missing, host.shm_bytes(), gloo, interfaces)


def shm_warning(report: NodeReport) -> Problem | None:
    """Return a warning where an object store is larger than its node's shared memory, else None."""
    facts = report.facts
    if isinstance(facts, Problem) or facts.shm is None or report.object_store <= facts.shm[0]:
        return None
    size, wanted = facts.shm[0], report.object_store
    sizes = f"{report.node}: /dev/shm has {size / 1e9:.2f} GB, Ray's object store {wanted / 1e9:.1f} GB"
    what = f"{sizes}: it keeps objects in a file on disk, and streaming images waits for it"
    return Problem(what, host.shm_remedy(wanted, size))


def _differ(name: str, one: str, other: str | None) -> bool:
    if name == "torch" and other is not None:
        # Nodes without a GPU may have the same release in PyTorch's build for CPUs (2.15.0+cpu).
        one, other = one.partition("+")[0], other.partition("+")[0]
    return one != other


def node_problems(
    here: dict[str, str], reports: Sequence[NodeReport], paths: Mapping[str, str]
) -> list[Problem]:
    """Return the problems that keep nodes from working with a driver that has the versions `here`."""
    problems = []
    for report in reports:
        facts = report.facts
        if isinstance(facts, Problem):
            problems.append(replace(facts, what=f"{report.node} {facts.what}"))
            continue
        for name, version in here.items():
            if _differ(name, version, facts.versions.get(name)):
                what = f"{report.node} has {name} {facts.versions.get(name)}, the driver {version}"
                problems.append(Problem(what, "install the same on all"))
        for key, why in facts.missing.items():
            what = f"{report.node} cannot use {key}, where {storage.redact(paths[key])} is: {why}"
            problems.append(Problem(what, "use a bucket or a folder that all nodes share", (key,)))
    return problems
