"""Whether a cluster's nodes can work together, asked of each of them before anything is started."""

from __future__ import annotations

import platform
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

import ray
from ray.exceptions import GetTimeoutError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from gan_dist import storage
from gan_dist.errors import ClusterError, GanDistError
from gan_dist.storage import StorageOptions

TIMEOUT_S = 60.0
PACKAGES = ("gan-dist", "torch", "ray")


@dataclass(frozen=True)
class Facts:
    """What a node says of itself."""

    versions: dict[str, str]
    storage: str | None
    """Why it cannot see what the driver has written; None where it can."""


def check_nodes(uri: str) -> None:
    """Refuse a cluster of several nodes on which a run or search would fail later.

    Every node must see the folder at `uri` as the driver does, and have the driver's versions.

    Raises:
        ClusterError: with every node's problems.
    """
    nodes = [node for node in ray.nodes() if node["Alive"]]
    if len(nodes) == 1:
        return
    marker = storage.join(uri, f".seen-by-all-{uuid.uuid4().hex}")
    storage.write_bytes(marker, b"")
    try:
        answers = _asked(nodes, marker)
    finally:
        storage.delete_file(marker)
    problems = _problems(facts_here(), answers, uri)
    if problems:
        raise ClusterError("the cluster's nodes cannot work together:\n" + "\n".join(problems))


def _asked(nodes: Sequence[dict[str, Any]], marker: str) -> dict[str, Facts | None]:
    """Return what each node says, by its address and id; None of one that does not answer."""
    ask = ray.remote(num_cpus=0)(_facts)
    running = {
        f"{node['NodeManagerAddress']} (node {node['NodeID'][:8]})": ask.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
        ).remote(marker, storage.options())
        for node in nodes
    }
    ray.wait(list(running.values()), num_returns=len(running), timeout=TIMEOUT_S)
    answers: dict[str, Facts | None] = {}
    for name, answer in running.items():
        try:
            answers[name] = ray.get(answer, timeout=0)
        except GetTimeoutError:
            answers[name] = None
    return answers


def facts_here() -> dict[str, str]:
    """Return this process's versions."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def _facts(marker: str, options: StorageOptions) -> Facts:
    storage.configure(options)
    try:
        seen = None if storage.exists(marker) else "it does not see what the driver writes there"
    except GanDistError as error:
        seen = str(error)
    return Facts(facts_here(), seen)


def _problems(here: dict[str, str], answers: dict[str, Facts | None], uri: str) -> list[str]:
    problems = []
    for address, facts in answers.items():
        if facts is None:
            problems.append(f"{address} did not answer within {TIMEOUT_S:g} s: look at it, or take it out")
            continue
        problems += [
            f"{address} has {name} {facts.versions.get(name)}, the driver {version}: install the same on all"
            for name, version in here.items()
            if facts.versions.get(name) != version
        ]
        if facts.storage is not None:
            problems.append(
                f"{address} cannot use storage.path, where {storage.shown(uri)} is: {facts.storage}; use a "
                "bucket or a folder that all nodes share"
            )
    return problems
