"""Signals that ask a command to end: SIGINT (Ctrl-C), SIGTERM, and SIGHUP unless it is ignored (`nohup`).

The first raises KeyboardInterrupt, or, where a stop is prepared (`stop_requests`), asks for that; the second
then raises it. While the command ends, those that follow disturb nothing: the lock of a folder is released.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
INTERRUPTED = 130
"""Exit code of a command that was interrupted, as shells have it for SIGINT."""
FORCE_S = 5.0
"""Seconds of ending after which one more signal ends the process, whatever it does."""


class _State:
    handled = False
    """Whether `interruptible` is entered."""
    request: threading.Event | None = None
    """What the next signal sets, if a stop is prepared."""
    postpones = False
    """Whether `postponed` is entered."""
    waiting = False
    """Whether a signal has come since."""
    ending_since: float | None = None
    """When the command was made to end, in the time of `time.monotonic`."""


def stop_requested() -> bool:
    """Return whether one of SIGNALS has come."""
    return _State.ending_since is not None or (_State.request is not None and _State.request.is_set())


def _handle(_number: int = 0, _frame: FrameType | None = None) -> None:
    if _State.postpones:
        _State.waiting = True
    elif _State.ending_since is not None:
        if time.monotonic() - _State.ending_since > FORCE_S:
            os._exit(INTERRUPTED)
    elif _State.request is not None and not _State.request.is_set():
        _State.request.set()
    else:
        _State.ending_since = time.monotonic()
        raise KeyboardInterrupt


@contextmanager
def interruptible() -> Iterator[None]:
    """Raise KeyboardInterrupt at the first of SIGNALS; while that unwinds, ignore others.

    SIGINT counts also where it is ignored, as in a process that a script has started in the background.
    Python handles signals in the main thread only; in others, and within another `interruptible`, nothing
    changes.
    """
    if _State.handled or threading.current_thread() is not threading.main_thread():
        yield
        return
    hung_up = signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    before = {
        number: signal.signal(number, _handle)
        for number in SIGNALS
        if not (hung_up and number == signal.SIGHUP)
    }
    _State.handled = True
    try:
        yield
    finally:
        _State.handled, _State.waiting, _State.ending_since = False, False, None
        for number, handler in before.items():
            signal.signal(number, handler)


def ignore_interrupts() -> None:
    """Ignore SIGNALS from now on, as while Python ends."""
    for number in SIGNALS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def postponed() -> Iterator[None]:
    """Let SIGNALS that come within `interruptible` wait until the context has ended."""
    before, _State.postpones = _State.postpones, True
    try:
        yield
    finally:
        _State.postpones = before
        if not before and _State.waiting:
            _State.waiting = False
            _handle()


@contextmanager
def stop_requests() -> Iterator[threading.Event]:
    """Set the event at the first of SIGNALS; raise KeyboardInterrupt at the second.

    Once the context has ended with the event set, what is left is the end, which others do not disturb.
    """
    requested = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield requested
        return
    with interruptible():
        before, _State.request = _State.request, requested
        try:
            yield requested
        finally:
            _State.request = before
            if requested.is_set() and _State.ending_since is None:
                _State.ending_since = time.monotonic()
