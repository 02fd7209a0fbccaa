"""A run on several nodes of this machine that are drained while it trains."""

from __future__ import annotations

import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from ray.cluster_utils import Cluster

from gan_dist.cluster.train import driver
from gan_dist.cluster.train.status import RunStatus
from gan_dist.training.checkpoint import newest_images
from gan_dist.training.progress import RunResult
from tests.cluster.conftest import AddNode
from tests.support.heads import BIN
from tests.unit.training.test_training import config

GRACE_S = 120
PATIENCE_S = 240
ENDLESS = ["train.kimg=100000", "eval.every_kimg=100000", "scale.workers=2", "scale.min_workers=1"]


@dataclass
class Seen:
    """What the driver was shown, and what became of it."""

    notes: list[str] = field(default_factory=list)
    lost: list[int] = field(default_factory=list)
    """For every worker group but the last: images trained that its successor had to train again."""
    images: int = 0
    groups: int = 0
    nodes: frozenset[str] = frozenset()
    error: str | None = None
    outcome: RunResult | None = None


class Watched:
    """A run in a thread, with what is shown of it; it is asked to end with the context."""

    def __init__(self, folder: str, *overrides: str) -> None:
        self.seen = Seen()
        self._config = config(folder, *ENDLESS, *overrides)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self.seen.outcome = driver.run(self._config, self._show, self._stop.is_set)
        except Exception as error:
            self.seen.error = repr(error)

    def _show(self, news: RunStatus) -> None:
        seen = self.seen
        if seen.nodes and not news.nodes:
            seen.lost.append(seen.images - newest_images(self._config.run_uri))
            sys.stderr.write(f"{seen.lost[-1]} images lost\n")
        if news.nodes and not seen.nodes:
            seen.groups += 1
        for note in news.warnings[len(seen.notes) :]:
            sys.stderr.write(f"{note}\n")
        seen.notes, seen.nodes = list(news.warnings), news.nodes
        if news.progress is not None:
            seen.images = news.progress.images

    def until(self, reached: Callable[[], bool]) -> None:
        """Wait until something is so."""
        deadline = time.monotonic() + PATIENCE_S
        while not reached():
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise TimeoutError(f"in vain: {self.seen}")
            time.sleep(0.1)

    def until_it_trains(self) -> None:
        """Wait until the worker group that there is has done a step."""
        groups, images = self.seen.groups, self.seen.images
        self.until(lambda: self.seen.groups > groups or self.seen.images > images)
        images = self.seen.images
        self.until(lambda: self.seen.images > images)

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *_: object) -> None:
        """Let it write a checkpoint and end."""
        self._stop.set()
        self._thread.join(PATIENCE_S)


def drain(cluster: Cluster, node_id: str) -> None:
    """Tell a node that its machine is going to be taken away, as an autoscaler does."""
    reason = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot"]
    deadline = ["--deadline-remaining-seconds", str(GRACE_S)]
    command = [BIN / "ray", "drain-node", "--address", cluster.address, "--node-id", node_id]
    subprocess.run([*command, *reason, *deadline], check=True, capture_output=True)


def once(cluster: Cluster, add_node: AddNode, folder: str) -> Seen:
    """One of two nodes is drained; the run goes on with what is left."""
    nodes = [add_node(num_cpus=1) for _ in range(2)]
    with Watched(folder) as watched:
        watched.until(lambda: watched.seen.images > 0)
        drain(cluster, nodes[0].node_id)
        watched.until(lambda: watched.seen.groups == 2)
        watched.until_it_trains()
    return watched.seen


def often(cluster: Cluster, add_node: AddNode, folder: str, drains: int, seed: int) -> Seen:
    """At random moments one of the run's nodes is drained, and another comes."""
    chance = random.Random(seed)
    for _ in range(2):
        add_node(num_cpus=1)
    with Watched(folder) as watched:
        watched.until(lambda: watched.seen.images > 0)
        for number in range(drains):
            time.sleep(chance.uniform(0, 20))
            watched.until(lambda: bool(watched.seen.nodes))
            drain(cluster, chance.choice(sorted(watched.seen.nodes)))
            sys.stderr.write(f"drain {number + 1} at {watched.seen.images} images\n")
            if chance.random() < 0.5:
                groups = watched.seen.groups
                watched.until(lambda groups=groups: watched.seen.groups > groups)  # type: ignore[misc]
            add_node(num_cpus=1)
        watched.until_it_trains()
    return watched.seen
