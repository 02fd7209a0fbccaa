"""Writes a run's files in a thread, and holds them while the run's store does not answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from functools import partial
from operator import itemgetter

from gan_dist.core.errors import OutageError, Problem, StorageError
from gan_dist.core.threads import abandon

FIRST_WAIT_S, LONGEST_WAIT_S = 0.5, 15.0
"""Seconds between tries at a store that does not answer; each try has `storage.timeout_s` of its own."""
CHECK_S = 1.0
"""Seconds between looks at a write that does not end."""

_FILE, _RELEASE, _CHECKPOINT = range(3)
"""Kinds of what waits, in the order in which they are written."""


class RunWriter:
    """Writes records, samples, releases and checkpoints in a thread, while its owner trains.

    While the store does not answer it tries again, and all that it is given waits; of the releases and of the
    checkpoints only the newest ones do, so that memory is bounded. In the midst of a run a store's refusal
    counts as an outage too, since credentials that have expired are renewed.

    An error that no waiting mends, such as a full disk, is raised by the next method that the owner calls. So
    is a StorageError once the store has not answered, or a disk has let no write end, for `max_outage_s`.

    Args:
        run_uri: The run's folder.
        images: Images of the run's newest checkpoint, 0 without one.
        max_outage_s: See `storage.max_outage_s`.
        trained: Returns the images that the run has trained with.
        before: Called before each write, in the thread; what it raises ends the writing.
        warn: Called with a sentence for the user, in the thread.
    """

    def __init__(
        self,
        run_uri: str,
        images: int,
        max_outage_s: float,
        trained: Callable[[], int],
        before: Callable[[], None],
        warn: Callable[[str], None],
    ) -> None:
        self._uri, self._max_outage_s = run_uri, max_outage_s
        self._trained, self._before, self._warn = trained, before, warn
        self._saved = images
        self._waiting: list[tuple[int, Callable[[], None]]] = []
        self._changed = threading.Condition()
        self._outage_began: float | None = None
        self._began: float | None = None
        """When the write began that has not ended, in the time of `time.monotonic`."""
        self._closed = False
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def add(self, call: Callable[[], None]) -> None:
        """Write by a call that may be repeated after it has failed."""
        self._add(_FILE, call)

    def add_release(self, write: Callable[[], None]) -> None:
        """Write the best release, in place of one that waits."""
        self._add(_RELEASE, write)

    def add_checkpoint(self, images: int, write: Callable[[], None]) -> None:
        """Write a checkpoint, in place of one that waits, after what was added before."""

        def call() -> None:
            write()
            self._saved = images

        self._add(_CHECKPOINT, call)

    def _add(self, kind: int, call: Callable[[], None]) -> None:
        with self._changed:
            others = [one for one in self._waiting if kind == _FILE or one[0] != kind]
            self._waiting = sorted([*others, (kind, call)], key=itemgetter(0))
            self._changed.notify_all()

    def is_idle(self) -> bool:
        """Return whether nothing waits; raise the error that has ended the writing."""
        with self._changed:
            self._end_if_stuck()
            self._raise()
            return not self._waiting

    def wait(self, *, through_outage: bool = False) -> bool:
        """Wait until all is written; during an outage return False at once, unless `through_outage`."""
        with self._changed:
            settled = partial(self._is_settled, through_outage=through_outage)
            while not self._changed.wait_for(settled, CHECK_S):
                self._end_if_stuck()
            self._raise()
            return not self._waiting

    def close(self) -> None:
        """End the thread; what waits is lost."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        while self._thread.is_alive():
            self._thread.join(CHECK_S)
            if self._is_stuck():
                abandon(self._thread)
                return

    def _is_stuck(self) -> bool:
        """Return whether a disk or mount has kept one write for `max_outage_s`; a bucket may take longer."""
        began = self._began
        return "://" not in self._uri and began is not None and time.monotonic() - began > self._max_outage_s

    def _end_if_stuck(self) -> None:
        if self._error is None and self._is_stuck():
            self._end(OutageError(f"{self._uri} lets no write end", "look at its disk or mount"))

    def _is_settled(self, *, through_outage: bool) -> bool:
        in_outage = self._outage_began is not None and not through_outage
        return not self._waiting or self._error is not None or in_outage

    def _raise(self) -> None:
        if self._error is None:
            return
        if isinstance(self._error, OutageError):
            kept = f"the last checkpoint, at {self._saved / 1000:g} kimg, is whole"
            kept = f"{kept if self._saved else 'there is no checkpoint'}, and what was trained since is lost"
            since = f"{self._trained() - self._saved:,} images"
            what = f"it has not answered for {self._max_outage_s:g} s; {kept}: {since}"
            remedy = "once it answers, the same command goes on"
            problem = Problem(what, remedy, ("storage.max_outage_s",))
            raise StorageError([*self._error.problems, problem]) from None
        raise self._error

    def _run(self) -> None:
        wait_s = FIRST_WAIT_S
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._closed or bool(self._waiting))
                if self._closed:
                    return
            began = self._began = time.monotonic()
            try:
                self._write_next()
            except StorageError as error:
                if not self._goes_on(error, began, wait_s):
                    return
                wait_s = min(2 * wait_s, LONGEST_WAIT_S)
            except BaseException as error:
                self._end(error)
                return
            else:
                wait_s = FIRST_WAIT_S
            finally:
                self._began = None

    def _write_next(self) -> None:
        written = self._waiting[0]
        self._before()
        written[1]()
        with self._changed:
            self._waiting = [one for one in self._waiting if one is not written]
            # Not before all is written: a store may take small files, and no large ones.
            recovered = self._outage_began is not None and not self._waiting
            self._outage_began = None if recovered else self._outage_began
            self._changed.notify_all()
        if recovered:
            self._warn(f"the store answers again, and all that waited is written, at {self._kimg()} kimg")

    def _goes_on(self, error: StorageError, began: float, wait_s: float) -> bool:
        """Wait before the next try and return True; return False where there is to be none."""
        if not (isinstance(error, OutageError) or "://" in self._uri):
            self._end(error)
            return False
        first = self._outage_began is None
        since = began if self._outage_began is None else self._outage_began
        with self._changed:
            self._outage_began = since
            self._changed.notify_all()
        if time.monotonic() + wait_s - since > self._max_outage_s:
            self._end(OutageError(error.problems))
            return False
        if first:
            self._warn(
                f"the run's store fails at {self._kimg()} kimg ({error.problems[0].what}): training goes on, "
                f"and records and the newest checkpoint wait in memory for {self._max_outage_s:g} s at most "
                "(storage.max_outage_s)"
            )
        with self._changed:
            self._changed.wait_for(lambda: self._closed, wait_s)
        return True

    def _end(self, error: BaseException) -> None:
        with self._changed:
            self._error = error
            self._waiting = []
            self._changed.notify_all()

    def _kimg(self) -> str:
        return f"{self._trained() / 1000:g}"
