"""Patience with a store that does not answer for a while."""

from __future__ import annotations

import time
from collections.abc import Callable

from gan_dist.core.errors import OutageError, StorageError

PAUSE_S = 5.0
"""Seconds before the next try; each has `storage.timeout_s` of its own."""


class Patience:
    """Waits during an outage of a store, `max_outage_s` at most.

    Args:
        max_outage_s: Seconds of tries that all failed without progress in between.
        should_stop: Ends the wait early.
    """

    def __init__(self, max_outage_s: float, should_stop: Callable[[], bool]) -> None:
        self._max_outage_s, self._should_stop = max_outage_s, should_stop
        self._began, self._progress = 0.0, -2

    def wait_or_raise(self, error: OutageError, progress: int) -> None:
        """Wait for a moment before the next try.

        `progress` is a count, such as of images, whose change means that the store has answered in between.

        Raises:
            StorageError: the store has not answered for too long.
        """
        if progress != self._progress:
            self._began, self._progress = time.monotonic(), progress
        if time.monotonic() + PAUSE_S - self._began > self._max_outage_s:
            what = f"{error.problems[0].what}; the store has not answered for {self._max_outage_s:g} s"
            raise StorageError(what, "once it answers, go on", keys=("storage.max_outage_s",)) from None
        until = time.monotonic() + PAUSE_S
        while time.monotonic() < until and not self._should_stop():
            time.sleep(0.2)
