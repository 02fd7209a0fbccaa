"""The status of a run, held by a small actor: workers update it; the driver reads it and requests a stop."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from gan_dist.core.errors import GanDistError, WorkerError
from gan_dist.training.progress import Progress, RunResult

EXCHANGE_S = 1.0


@dataclass(frozen=True)
class RunStatus:
    """What the workers have reported so far."""

    progress: Progress | None = None
    """Progress of the latest worker group; None until it trains."""
    warnings: tuple[str, ...] = ()
    failure: GanDistError | None = None
    result: RunResult | None = None
    """Result of the latest worker group; None unless it ended in order."""
    nodes: frozenset[str] = frozenset()
    """Ids of the nodes on which the latest worker group runs."""
    waiting: frozenset[int] = frozenset()
    """Ranks of the latest worker group that have waited for others in vain."""
    stopping: bool = False
    """Whether the run was asked to end."""


@dataclass
class StatusActor:
    """The actor; it reserves no resources.

    Worker groups are numbered. One that the driver has given up may live on, on a host that is cut off from
    the driver: its updates are ignored.
    """

    status: RunStatus = field(default_factory=RunStatus)
    stop: bool = False
    group: int = 0
    """Number of the latest worker group."""

    def start_group(self) -> int:
        """Reset what belongs to a single worker group, and return the number of the next one."""
        self.status = RunStatus(warnings=self.status.warnings)
        self.stop = False
        self.group += 1
        return self.group

    def is_latest(self, group: int) -> bool:
        """Return whether no other worker group has taken over."""
        return group == self.group

    def add_node(self, group: int, node: str) -> None:
        """Add the node of a worker."""
        if self.is_latest(group):
            self.status = replace(self.status, nodes=self.status.nodes | {node})

    def add_waiting(self, group: int, rank: int) -> None:
        """Add a worker that has waited for others in vain."""
        if self.is_latest(group):
            self.status = replace(self.status, waiting=self.status.waiting | {rank})

    def update(self, group: int, **changes: Any) -> bool:
        """Replace fields of the status; return whether the worker group should stop."""
        if not self.is_latest(group):
            return True
        self.status = replace(self.status, **changes)
        return self.stop

    def warn(self, sentence: str, *, repeat: bool = False) -> None:
        """Add a warning; one that is there already only if `repeat`."""
        if repeat or sentence not in self.status.warnings:
            self.status = replace(self.status, warnings=(*self.status.warnings, sentence))

    def request_stop(self) -> None:
        """Ask the worker group to write a checkpoint and end."""
        self.stop = True

    def read(self) -> RunStatus:
        """Return the status."""
        return self.status


def start_status_actor() -> Any:
    """Start the actor on the driver's node, so that it lives as long as that node; return its handle."""
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    return ray.remote(num_cpus=0, label_selector=here)(StatusActor).remote()


class StatusClient:
    """Connection of a worker group's rank 0 to the actor: a thread sends the progress and receives a stop."""

    def __init__(self, actor: Any, group: int) -> None:
        self.progress: Progress | None = None
        self._actor, self._group = actor, group
        self._exchange()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="status", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._closed.wait(EXCHANGE_S):
            self._exchange()

    def _exchange(self) -> None:
        changes = {} if self.progress is None else {"progress": self.progress}
        self.stop: bool = ray.get(self._actor.update.remote(self._group, **changes))

    def require_latest(self) -> None:
        """Wait until the driver's node answers; raise a WorkerError if another group has taken over."""
        if not ray.get(self._actor.is_latest.remote(self._group)):
            raise WorkerError("other workers have taken over this run, which these were cut off from")

    def close(self) -> None:
        """Send the last progress, and end the thread."""
        self._closed.set()
        self._thread.join()
        self._exchange()
