"""Work done ahead in threads, a bounded number of values at a time; and threads that are left behind."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar
from weakref import WeakSet

T = TypeVar("T")
R = TypeVar("R")

_left: WeakSet[threading.Thread] = WeakSet()


def map_ahead(stack: ExitStack, function: Callable[[T], R], values: Iterable[T], threads: int) -> Iterator[R]:
    """Like `map`, at most `2 * threads` values ahead, in threads that end with the stack.

    After an error or an interrupt the stack waits for what was begun, at most `threads` calls; what was only
    handed in is given up.
    """
    if threads == 1:
        yield from map(function, values)
        return
    pool = ThreadPoolExecutor(threads)
    stack.callback(pool.shutdown, cancel_futures=True)
    waiting: deque[Future[R]] = deque()
    for value in values:
        waiting.append(pool.submit(function, value))
        if len(waiting) >= 2 * threads:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()


def ahead(values: Iterator[T]) -> Iterator[T]:
    """Yield values, none of them None, of which a thread makes the next one while the caller uses the last.

    A caller that has had enough does not wait for the value that is being made.
    """
    pool = ThreadPoolExecutor(1, "ahead")
    try:
        coming: Future[T | None] = pool.submit(next, values, None)
        while (value := coming.result()) is not None:
            coming = pool.submit(next, values, None)
            yield value
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def leave_behind(thread: threading.Thread) -> None:
    """Wait no longer for a daemon thread that is stuck in a library."""
    _left.add(thread)


def left_behind() -> set[threading.Thread]:
    """Return those that are still at work: a process that has some must be ended by `os._exit`.

    Python, when it ends, takes down each thread that comes back to it. If that is called from a library's
    C++, as s3fs is from Arrow's, the whole process aborts.
    """
    return {thread for thread in _left if thread.is_alive()}
