"""A run on a cluster: worker groups one after another, each from the last checkpoint, until it has ended."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from types import FrameType

import ray

from gan_dist.cluster.connect import cluster, interrupts_to
from gan_dist.cluster.nodes.node_checks import check_nodes
from gan_dist.cluster.nodes.placement import More, addresses, is_placed, leaving, placeable, reserved, said
from gan_dist.cluster.train.status import RunStatus, new_board
from gan_dist.cluster.train.worker_group import WorkerGroup, reason
from gan_dist.config import RunConfig
from gan_dist.core import storage
from gan_dist.core.errors import StorageError, WorkerError
from gan_dist.core.progress import Outcome
from gan_dist.training import checkpoint as states

RETRIES = 3
"""Worker groups that may fail one after another without a checkpoint that is newer than their start."""
POLL_S = 0.5
GROW_S = 60.0
"""Seconds that fewer workers than are wanted train before it is looked whether there is room for more."""


def run(
    config: RunConfig, show: Callable[[RunStatus], None], stop: Callable[[], bool] = lambda: False
) -> Outcome:
    """Train a run on a cluster and return where it ended.

    An interrupt (SIGINT or SIGTERM) lets it write a checkpoint and end; a second one ends it at once. Before
    a node leaves the cluster it writes a checkpoint and goes on with what is left; after the loss of a worker
    or a node it goes on from its last checkpoint.

    Args:
        config: The run; its `storage` is a URI or an absolute path.
        show: Called a few times a second with the workers' news.
        stop: Asked as often whether the run should write a checkpoint and end.

    Raises:
        CapacityError: the workers can never be placed.
        GanDistError: whatever the loop raises.
        WorkerError: the workers kept failing for another reason, there was no room for them for
            `scale.wait_s`, or the node of this process leaves the cluster.
    """
    storage.configure(config.storage.options)
    with cluster(config.scale), _interrupts() as interrupted:
        check_nodes(config.run_uri, config.data.path)
        return _Run(config, show, lambda: interrupted.is_set() or stop()).to_its_end()


class _Run:
    """The driver's side of a run: what it decides while worker groups come and go."""

    def __init__(
        self, config: RunConfig, show: Callable[[RunStatus], None], stop: Callable[[], bool]
    ) -> None:
        self._config = config
        self._counts = config.worker_counts
        self._show, self._stop = show, stop
        self._board = new_board()
        self._here = ray.get_runtime_context().get_node_id()
        self._noted: frozenset[str] = frozenset()
        self._grow_s = GROW_S

    def to_its_end(self) -> Outcome:
        """Start worker groups until one has finished, or the run is asked to stop."""
        failures = 0
        before = self._counts[0]
        while (workers := self._room()) is not None:
            begun_at = self._images()
            if workers != before:
                self._note(f"from {begun_at / 1000:g} kimg on with {workers} of {self._counts[0]} workers")
            if workers > before:
                self._grow_s = GROW_S
            before = workers
            group = ray.get(self._board.begin.remote())
            attempt = WorkerGroup(self._config, workers, self._board, group)
            stopped = self._follow(attempt)
            news = self._shown()
            if isinstance(news.failure, StorageError):
                raise StorageError(f"{news.failure}\nthe run is kept as its last checkpoint has it") from None
            if news.failure is not None:
                raise news.failure
            if news.outcome is not None and (news.outcome.finished or stopped):
                return news.outcome
            if stopped:
                if attempt.error is not None:
                    self._note(f"{reason(attempt.error)} while it was stopped; {self._kept()}")
                break
            if self._here in leaving():
                raise WorkerError("the node that this command runs on leaves the cluster", f"{self._kept()}")
            if attempt.error is not None:
                failures = 0 if self._images() > begun_at else failures + 1
                self._go_on_after(attempt.error, news, failures)
        return Outcome(self._images(), finished=False, images_per_second=None, value=None)

    def _room(self) -> int | None:
        """Return how many workers there is room for, once there is; None when asked to stop meanwhile."""
        scale = self._config.scale
        if (count := placeable(scale, self._counts)) is not None:
            return count
        missing = f"no room for {said(scale, self._counts[-1])}"
        self._note(f"{missing}: the run waits for nodes, {scale.wait_s:g} s at most (scale.wait_s)")
        deadline = time.monotonic() + scale.wait_s
        with reserved(scale, self._counts[0]) as whole:
            while time.monotonic() < deadline:
                self._shown()
                if self._stop():
                    return None
                if is_placed(whole):
                    return self._counts[0]
                if (count := placeable(scale, self._counts[1:])) is not None:
                    return count
                time.sleep(POLL_S)
        raise WorkerError(f"{missing} for {scale.wait_s:g} s (scale.wait_s)", f"{self._kept()}")

    def _follow(self, attempt: WorkerGroup) -> bool:
        """Show a worker group until it ends, and end it where it should; return whether the user asked."""
        ending = stopped = False
        look = math.inf
        with closing(More(self._config.scale, self._counts, attempt.workers)) as more:
            while attempt.running():
                news = self._shown()
                now = time.monotonic()
                if news.nodes and look == math.inf:
                    more.ask()
                    look = now + self._grow_s
                stopped = stopped or self._stop()
                should_end = stopped or self._loses(news.nodes)
                if now > look and not ending:
                    look = now + self._grow_s
                    should_end = should_end or self._can_grow(attempt.workers, more)
                if should_end and not ending:
                    self._board.request_stop.remote()
                    ending = True
                time.sleep(POLL_S)
        return stopped

    def _loses(self, nodes: frozenset[str]) -> bool:
        """Tell whether one of the run's nodes is about to leave."""
        lost = leaving() & (nodes | {self._here})
        if lost - self._noted:
            self._noted |= lost
            self._note(f"{', '.join(addresses(lost))} leaves the cluster: writing a checkpoint")
        return bool(lost)

    def _can_grow(self, workers: int, more: More) -> bool:
        """Tell whether there is room for more workers now; where others always take it, look less often."""
        if not more.ask():
            return False
        self._grow_s *= 2
        self._note(f"there is room for more than {said(self._config.scale, workers)}: writing a checkpoint")
        return True

    def _go_on_after(self, error: Exception, news: RunStatus, failures: int) -> None:
        """Say that the run goes on after a failure.

        Raises:
            WorkerError: it has failed too often without progress.
        """
        if failures > RETRIES:
            raise WorkerError(
                f"the workers failed {failures} times without a new checkpoint, the last time with: {error}\n"
                f"{self._kept()}"
            ) from error
        lost = addresses(news.nodes, alive=False)
        what = f"lost {', '.join(lost)}" if lost else reason(error)
        self._note(f"{what}; the run goes on from {self._images() / 1000:g} kimg")

    def _images(self) -> int:
        return states.newest_images(self._config.run_uri)

    def _kept(self) -> str:
        return f"the run is kept as it was at {self._images() / 1000:g} kimg"

    def _note(self, sentence: str) -> None:
        ray.get(self._board.note.remote(sentence))
        self._shown()

    def _shown(self) -> RunStatus:
        news: RunStatus = ray.get(self._board.read.remote())
        self._show(news)
        return news


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into an event; a second one raises KeyboardInterrupt."""
    interrupted = threading.Event()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    with interrupts_to(handle):
        yield interrupted
