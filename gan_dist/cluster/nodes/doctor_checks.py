"""Doctor's checks of a cluster: its ports, token, connection, nodes, and capacity for a run."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from typing import NamedTuple

import ray

from gan_dist.cluster.connect import connect
from gan_dist.cluster.jobs.client import dashboard_status
from gan_dist.cluster.nodes import node_checks, resources
from gan_dist.cluster.nodes.head_probe import (
    TOKEN_REMEDY,
    HeadState,
    auth_headers,
    cluster_address,
    probe_head,
)
from gan_dist.config import DataConfig, ScaleConfig, SearchConfig
from gan_dist.core import host
from gan_dist.core.errors import CapacityError, ClusterError, GanDistError
from gan_dist.core.findings import Finding, findings_of, wrong_interface
from gan_dist.core.storage.redaction import redact
from gan_dist.data.batches.loader import bytes_in_memory, open_images

PORTS = {
    "port": 6379,
    "dashboard-port": 8265,
    "ray-client-server-port": 10001,
    "dashboard-agent-listen-port": 52365,
}
"""Default ports of `ray start --head`, by the option that sets another."""
OPEN_WHY = "whoever reaches it runs any program there, as you: Ray is remote execution by design"
OPEN_REMEDY = (
    "ray get-auth-token --generate, export RAY_AUTH_MODE=token on every node and for every client, and start "
    "the cluster anew; until then close its ports in the firewall"
)


class PlannedRun(NamedTuple):
    """What a run or search will use of a cluster."""

    scale: ScaleConfig
    storage_path: str
    data: DataConfig
    search: SearchConfig | None = None


def ports() -> Iterator[Finding]:
    """Check Ray's default ports on this machine: free, or used by a cluster or by other programs."""
    if cluster_address() is not None:
        return
    taken = {option: port for option, port in PORTS.items() if _listens(port)}
    if not taken:
        yield Finding("ports", "ok", f"{', '.join(map(str, PORTS.values()))} are free for ray start --head")
        return
    address = f"127.0.0.1:{PORTS['port']}"
    state = probe_head(address).state if "port" in taken else HeadState.NOT_RAY
    if state in (HeadState.READY, HeadState.UNAUTHORIZED):
        what = f"a Ray cluster runs here at {address}, which RAY_ADDRESS does not name"
        why = "a run starts a Ray of its own beside it, for the same cores"
        yield Finding("ports", "warning", what, why, f"export RAY_ADDRESS={address}")
        if state is HeadState.READY:
            yield _open(address)
        return
    options = " ".join(f"--{option}={port + 1000}" for option, port in taken.items())
    what = f"other programs listen at {', '.join(map(str, taken.values()))}"
    yield Finding(
        "ports", "warning", what, "ray start --head cannot take them", f"ray start --head {options}"
    )


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(1.0)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def token() -> Iterator[Finding]:
    """Check that the cluster and the dashboard that the environment names do not answer without a token."""
    address, url = cluster_address(), os.environ.get("RAY_API_SERVER_ADDRESS")
    closed = []
    if address is not None and "://" not in address and address != "auto":
        state = probe_head(address).state
        if state is HeadState.READY:
            yield _open(address)
        elif state is HeadState.UNAUTHORIZED:
            closed.append(address)
    if address is not None and address.startswith("http"):
        url = url or address
    if url:
        place = redact(url)
        try:
            if dashboard_status(url) == 200:
                yield _open(place)
            else:
                yield from _own_token(url, place)
                closed.append(place)
        except ClusterError as error:
            yield from findings_of("token", error.problems, "jobs are submitted there")
    if closed:
        refuse = "refuses" if len(closed) == 1 else "refuse"
        yield Finding("token", "ok", f"{' and '.join(closed)} {refuse} who has no token")


def _open(place: str) -> Finding:
    return Finding("token", "error", f"{place} answers without a token", OPEN_WHY, OPEN_REMEDY)


def _own_token(url: str, place: str) -> Iterator[Finding]:
    headers = auth_headers()
    if dashboard_status(url, headers) in (401, 403):
        what = f"{place} {'refuses this token' if headers else 'wants a token'}"
        yield Finding("token", "error", what, "no job can be submitted", TOKEN_REMEDY)


def cluster(run: PlannedRun | None, timeout_s: float) -> Iterator[Finding]:
    """Check the cluster in RAY_ADDRESS: the connection, its nodes and, for a run, its capacity.

    It never starts a cluster. The nodes have `timeout_s` to answer.
    """
    address = cluster_address()
    if address is None:
        yield Finding("cluster", "ok", "RAY_ADDRESS is not set: runs start a Ray on this machine")
        if run is not None:
            yield from _capacity(run, [resources.local_node()], "this machine")
        return
    try:
        with connect():
            nodes = resources.cluster_nodes()
            cpus, gpus = sum(node.cpus for node in nodes), sum(node.gpus for node in nodes)
            hardware = f"{len(nodes)} node{'s' * (len(nodes) != 1)} with {cpus:g} CPUs and {gpus:g} GPUs"
            yield Finding("cluster", "ok", f"{address}: {hardware}, Ray {ray.__version__}")
            paths = {}
            if run is not None and len(nodes) > 1:
                paths = node_checks.shared_paths(run.storage_path, run.data.path)
            yield from _nodes(node_checks.query_nodes(nodes, paths, timeout_s), paths)
            if run is not None:
                yield from _capacity(run, nodes, f"the cluster at {address}")
    except ClusterError as error:
        yield from findings_of("cluster", error.problems, "no run can be started there")


def _nodes(reports: Sequence[node_checks.NodeReport], paths: Mapping[str, str]) -> Iterator[Finding]:
    problems = node_checks.node_problems(host.versions(), reports, paths)
    yield from findings_of("nodes", problems, "a run fails later, on such a node")
    for report in reports:
        if warning := node_checks.shm_warning(report):
            why = "streaming images waits for the disk"
            yield from findings_of("nodes", [warning], why, level="warning")
        if isinstance(facts := report.facts, node_checks.NodeFacts):
            yield from wrong_interface("nodes", f"{report.node}: ", facts.gloo, facts.interfaces)
    if not problems:
        yield Finding("nodes", "ok", " and see ".join(["all have this process's versions", *paths]))


def _capacity(run: PlannedRun, nodes: list[resources.Node], where: str) -> Iterator[Finding]:
    scale = run.scale
    try:
        resources.require_capacity(scale, nodes, where)
    except CapacityError as error:
        yield from findings_of("room", error.problems, "no worker would ever start")
        return
    trials = resources.concurrent_trials(scale, nodes, run.search.concurrent) if run.search else None
    if warning := resources.memory_warning(scale, nodes, trials):
        why = "Ray ends workers when a node's memory is 95 % full"
        yield from findings_of("room", [warning], why, level="warning")
    try:
        held = bytes_in_memory(open_images(run.data.path), run.data.cache)
        held *= scale.workers * (trials or 1)
    except GanDistError:
        held = 0  # another check reports what is wrong with the images
    total = sum(node.memory for node in nodes)
    if 0 < total < held:
        what = f"{held / 1e9:.1f} GB of images held by all workers, {where} has {total / 1e9:.1f} GB"
        why = "each worker holds the decoded set in memory"
        yield Finding("room", "error", what, why, "data.cache=stream")
    if trials is None:
        fits = resources.worker_capacity(scale, nodes)
        more = "; nodes are added for more" if resources.autoscales(nodes) else ""
        yield Finding("room", "ok", f"{scale.workers} workers wanted, {fits} fit{more}")
    else:
        each = resources.process_count(scale, trial=True)
        drivers = f", {each} processes each with its driver" if each > 1 else ""
        yield Finding("room", "ok", f"{trials} trial{'s' * (trials != 1)} at a time{drivers}")
