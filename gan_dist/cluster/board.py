"""A small actor between driver and rank 0: progress, warnings, outcome one way, a stop the other."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field, replace
from typing import Any

import ray

from gan_dist.errors import GanDistError
from gan_dist.telemetry import Progress
from gan_dist.training.loop import Outcome

EXCHANGE_S = 1.0


@dataclass(frozen=True)
class News:
    """What the workers have told so far."""

    progress: Progress | None = None
    warnings: tuple[str, ...] = ()
    failure: GanDistError | None = None
    outcome: Outcome | None = None


@dataclass
class Board:
    """The actor; it reserves nothing and does nothing but keep what it is told."""

    news: News = field(default_factory=News)
    stop: bool = False

    def tell(self, **changes: Any) -> bool:
        """Replace some of the news; return whether the run is asked to stop."""
        self.news = replace(self.news, **changes)
        return self.stop

    def warn(self, sentence: str) -> None:
        """Add a warning."""
        self.news = replace(self.news, warnings=(*self.news.warnings, sentence))

    def request_stop(self) -> None:
        """Ask the run to write a checkpoint and end."""
        self.stop = True

    def read(self) -> News:
        """Return the news."""
        return self.news


def new_board() -> Any:
    """Start the actor and return its handle."""
    return ray.remote(num_cpus=0)(Board).remote()


class Link:
    """Rank 0's side: sends the latest progress and learns of a stop, from a thread of its own.

    Args:
        board: The actor's handle.
    """

    def __init__(self, board: Any) -> None:
        self.progress: Progress | None = None
        self.stop = False
        self._board = board
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._exchange, name="board", daemon=True)
        self._thread.start()

    def _exchange(self) -> None:
        while not self._closed.wait(EXCHANGE_S):
            self.stop = ray.get(self._board.tell.remote(progress=self.progress))

    def close(self) -> None:
        """Stop exchanging."""
        self._closed.set()
        self._thread.join()
