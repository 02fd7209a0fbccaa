"""Values computed ahead in threads, and what was abandoned in a library."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from typing import TypeVar

T = TypeVar("T")
R = TypeVar("R")

_abandoned: set[threading.Thread | str] = set()


def map_ahead(stack: ExitStack, function: Callable[[T], R], values: Iterable[T], threads: int) -> Iterator[R]:
    """Like `map`, but computed in threads, at most `2 * threads` values ahead.

    The threads end with the stack. After an error or an interrupt it waits for the calls that have begun, at
    most `threads`, and cancels the others.
    """
    if threads == 1:
        yield from map(function, values)
        return
    pool = ThreadPoolExecutor(threads)
    stack.callback(pool.shutdown, cancel_futures=True)
    pending: deque[Future[R]] = deque()
    for value in values:
        pending.append(pool.submit(function, value))
        if len(pending) >= 2 * threads:
            yield pending.popleft().result()
    while pending:
        yield pending.popleft().result()


def prefetch(values: Iterator[T]) -> Iterator[T]:
    """Yield values, none of them None; a thread computes the next one while the caller uses the last.

    A caller that stops early does not wait for the value that is being computed.
    """
    pool = ThreadPoolExecutor(1, "prefetch")
    try:
        pending: Future[T | None] = pool.submit(next, values, None)
        while (value := pending.result()) is not None:
            pending = pool.submit(next, values, None)
            yield value
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


def abandon(what: threading.Thread | str) -> None:
    """Record a daemon thread that is in a library's code, or a library, whose end nobody waits for."""
    _abandoned.add(what)


def abandoned() -> set[threading.Thread | str]:
    """Return what was abandoned; a process that has anything must end by `os._exit`.

    When Python ends, it ends each thread that returns to it. If that thread was called from C++, as s3fs is
    from Arrow, the whole process aborts. One that has ended since may have left its library in any state.
    """
    return set(_abandoned)
