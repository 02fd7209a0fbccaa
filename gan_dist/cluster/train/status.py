"""A small actor between driver and workers: progress, warnings, outcome one way, a stop the other."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from gan_dist.core.errors import GanDistError, WorkerError
from gan_dist.core.progress import Outcome, Progress

EXCHANGE_S = 1.0


@dataclass(frozen=True)
class RunStatus:
    """What the workers have told so far."""

    progress: Progress | None = None
    """Where the latest worker group is; None until it trains."""
    warnings: tuple[str, ...] = ()
    failure: GanDistError | None = None
    outcome: Outcome | None = None
    """Where the latest worker group ended, if it ended in order."""
    nodes: frozenset[str] = frozenset()
    """Ids of the nodes on which the latest worker group is."""


@dataclass
class StatusActor:
    """The actor; it reserves nothing and does nothing but keep what it is told.

    Worker groups have numbers. One that the driver has given up may live on, on a host that is cut off from
    the driver: nothing is taken from it.
    """

    news: RunStatus = field(default_factory=RunStatus)
    stop: bool = False
    group: int = 0
    """The latest worker group."""

    def begin(self) -> int:
        """Make ready for another worker group, and return its number."""
        self.news = replace(self.news, progress=None, outcome=None, nodes=frozenset())
        self.stop = False
        self.group += 1
        return self.group

    def is_latest(self, group: int) -> bool:
        """Tell whether no other worker group has taken over."""
        return group == self.group

    def join(self, group: int, node: str) -> None:
        """Note that a worker is on a node."""
        if self.is_latest(group):
            self.news = replace(self.news, nodes=self.news.nodes | {node})

    def tell(self, group: int, **changes: Any) -> bool:
        """Replace some of the news; return whether the worker group is asked to stop."""
        if not self.is_latest(group):
            return True
        self.news = replace(self.news, **changes)
        return self.stop

    def warn(self, sentence: str) -> None:
        """Add a warning, unless it is one that an earlier worker group gave."""
        if sentence not in self.news.warnings:
            self.note(sentence)

    def note(self, sentence: str) -> None:
        """Add what the driver has to say."""
        self.news = replace(self.news, warnings=(*self.news.warnings, sentence))

    def request_stop(self) -> None:
        """Ask the run to write a checkpoint and end."""
        self.stop = True

    def read(self) -> RunStatus:
        """Return the news."""
        return self.news


def new_board() -> Any:
    """Start the actor, where it lives as long as the driver's node does, and return its handle."""
    here = {"ray.io/node-id": ray.get_runtime_context().get_node_id()}
    return ray.remote(num_cpus=0, label_selector=here)(StatusActor).remote()


class StatusClient:
    """Rank 0's side: sends the latest progress and learns of a stop, from a thread of its own.

    Args:
        board: The actor's handle.
        group: The worker group's number.
    """

    def __init__(self, board: Any, group: int) -> None:
        self.progress: Progress | None = None
        self._board, self._group = board, group
        self.stop: bool = ray.get(board.tell.remote(group))
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._exchange, name="board", daemon=True)
        self._thread.start()

    def _exchange(self) -> None:
        while not self._closed.wait(EXCHANGE_S):
            told = {} if self.progress is None else {"progress": self.progress}
            self.stop = ray.get(self._board.tell.remote(self._group, **told))

    def require_latest(self) -> None:
        """Wait until the driver's node answers, and see that no other worker group has taken over.

        Raises:
            WorkerError: one has.
        """
        if not ray.get(self._board.is_latest.remote(self._group)):
            raise WorkerError("other workers have taken over this run, which these were cut off from")

    def close(self) -> None:
        """Send the last progress, and stop exchanging."""
        self._closed.set()
        self._thread.join()
        if self.progress is not None:
            ray.get(self._board.tell.remote(self._group, progress=self.progress))
