"""Doctor's checks of a cluster: reached, closed to strangers, nodes that work together, room for a run."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping

import ray

from gan_dist.cluster.connect import connect
from gan_dist.cluster.jobs import http
from gan_dist.cluster.nodes import resources
from gan_dist.cluster.nodes.head_probe import TOKEN_REMEDY, Answer, ask, auth_headers, cluster_address
from gan_dist.cluster.nodes.node_checks import (
    Facts,
    NodeAnswer,
    ask_nodes,
    node_problems,
    nodes_alive,
    places_to_see,
    small_shm,
)
from gan_dist.config import RunConfig
from gan_dist.core import host
from gan_dist.core.errors import CapacityError, ClusterError, GanDistError
from gan_dist.core.findings import Finding, findings_of, wrong_interface
from gan_dist.core.storage.redaction import redact
from gan_dist.data.batches.loader import held_bytes, open_images

PORTS = {
    "port": 6379,
    "dashboard-port": 8265,
    "ray-client-server-port": 10001,
    "dashboard-agent-listen-port": 52365,
}
"""Those that `ray start --head` takes by itself, by the option that sets another."""
OPEN_WHY = "whoever reaches it runs any program there, as you: Ray is remote execution by design"
OPEN_REMEDY = (
    "ray get-auth-token --generate, export RAY_AUTH_MODE=token on every node and for every client, and start "
    "the cluster anew; until then close its ports in the firewall"
)


def ports() -> Iterator[Finding]:
    """Ray's own ports on this machine: free, or taken by a cluster that is or is not meant."""
    if cluster_address() is not None:
        return
    taken = {option: port for option, port in PORTS.items() if _listens(port)}
    if not taken:
        yield Finding("ports", "ok", f"{', '.join(map(str, PORTS.values()))} are free for ray start --head")
        return
    address = f"127.0.0.1:{PORTS['port']}"
    answer = ask(address)[0] if "port" in taken else Answer.STRANGER
    if answer in (Answer.SERVED, Answer.LOCKED):
        yield Finding(
            "ports",
            "warning",
            f"a Ray cluster runs here at {address}, which RAY_ADDRESS does not name",
            "a run starts a Ray of its own beside it, for the same cores",
            f"export RAY_ADDRESS={address}",
        )
        if answer is Answer.SERVED:
            yield _open(address)
        return
    options = " ".join(f"--{option}={port + 1000}" for option, port in taken.items())
    yield Finding(
        "ports",
        "warning",
        f"other programs listen at {', '.join(map(str, taken.values()))}",
        "ray start --head cannot take them",
        f"ray start --head {options}",
    )


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def token() -> Iterator[Finding]:
    """Whether the cluster and the dashboard that the environment names answer without a token."""
    address, url = cluster_address(), os.environ.get("RAY_API_SERVER_ADDRESS")
    closed = []
    if address is not None and "://" not in address and address != "auto":
        answer, *_ = ask(address)
        if answer is Answer.SERVED:
            yield _open(address)
        elif answer is Answer.LOCKED:
            closed.append(address)
    if address is not None and address.startswith("http"):
        url = url or address
    if url:
        place = redact(url)
        try:
            if http.status(url) == 200:
                yield _open(place)
            else:
                yield from _accepted(url, place)
                closed.append(place)
        except ClusterError as error:
            yield from findings_of("token", error.problems, "jobs are submitted there")
    if closed:
        yield Finding(
            "token", "ok", f"{' and '.join(closed)} refuse{'s' * (len(closed) == 1)} who has no token"
        )


def _open(place: str) -> Finding:
    return Finding("token", "error", f"{place} answers without a token", OPEN_WHY, OPEN_REMEDY)


def _accepted(url: str, place: str) -> Iterator[Finding]:
    headers = auth_headers()
    if http.status(url, headers) in (401, 403):
        what = f"{place} {'refuses this token' if headers else 'wants a token'}"
        yield Finding("token", "error", what, "no job can be submitted", TOKEN_REMEDY)


def cluster(config: RunConfig | None, most: int | None, timeout_s: float) -> Iterator[Finding]:
    """Join the cluster in RAY_ADDRESS, ask its nodes, and see whether a run has room; never starts one.

    Args:
        config: The run; None looks at the cluster alone.
        most: Trials at a time that a search asks for.
        timeout_s: How long nodes may take to answer.
    """
    address = cluster_address()
    if address is None:
        yield Finding("cluster", "ok", "RAY_ADDRESS is not set: runs start a Ray on this machine")
        if config is not None:
            yield from _room(config, most, [resources.this_machine()], "this machine")
        return
    try:
        with connect():
            alive = nodes_alive()
            yield Finding("cluster", "ok", _summary(address, resources.nodes_up()))
            places = {}
            if config is not None and len(alive) > 1:
                places = places_to_see(config.storage.path, config.data.path)
            yield from _nodes(ask_nodes(alive, places, timeout_s), places)
            if config is not None:
                yield from _room(config, most, resources.nodes_up(), f"the cluster at {address}")
    except ClusterError as error:
        yield from findings_of("cluster", error.problems, "no run can be started there")


def _summary(address: str, nodes: list[resources.Node]) -> str:
    cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
    many = f"{len(nodes)} node{'s' * (len(nodes) != 1)}"
    return f"{address}: {many} with {cpus:g} CPUs and {gpus:g} GPUs, Ray {ray.__version__}"


def _nodes(answers: list[NodeAnswer], places: Mapping[str, str]) -> Iterator[Finding]:
    problems = node_problems(host.versions(), answers, places)
    yield from findings_of("nodes", problems, "a run fails later, on such a node")
    for one in answers:
        if warning := small_shm(one):
            why = "streaming images waits for the disk"
            yield from findings_of("nodes", [warning], why, level="warning")
    for one in answers:
        if isinstance(one.facts, Facts):
            yield from wrong_interface("nodes", f"{one.place}: ", one.facts.gloo, one.facts.interfaces)
    if not problems:
        yield Finding("nodes", "ok", " and see ".join(["all have this process's versions", *places]))


def _room(config: RunConfig, most: int | None, nodes: list[resources.Node], where: str) -> Iterator[Finding]:
    scale, search = config.scale, config.search is not None
    try:
        resources.require_room(scale, nodes, where)
    except CapacityError as error:
        yield from findings_of("room", error.problems, "no worker would ever start")
        return
    trials = resources.trials_at_once(scale, nodes, most) if search else None
    if warning := resources.short_of_memory(scale, nodes, trials):
        why = "Ray ends workers when a node's memory is 95 % full"
        yield from findings_of("room", [warning], why, level="warning")
    try:
        held = held_bytes(config, open_images(config.data.path)) * scale.workers * (trials or 1)
    except GanDistError:
        held = 0  # what is wrong with the images is found by another check
    total = sum(node.memory for node in nodes)
    if 0 < total < held:
        yield Finding(
            "room",
            "error",
            f"{held / 1e9:.1f} GB of images held by all workers, {where} has {total / 1e9:.1f} GB",
            "each worker holds the decoded set in memory",
            "data.cache=stream",
        )
    if trials is None:
        held_now = resources.workers_held(scale, nodes)
        more = "; nodes are added for more" if resources.may_grow(nodes) else ""
        yield Finding("room", "ok", f"{scale.workers} workers wanted, {held_now} fit{more}")
    else:
        each = resources.processes(scale, trial=True)
        drivers = f", {each} processes each with its driver" if each > 1 else ""
        yield Finding("room", "ok", f"{trials} trial{'s' * (trials != 1)} at a time{drivers}")
