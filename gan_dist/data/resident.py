"""Sets that fit in memory, and the direct reading of those that do not: windows without Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from gan_dist.data.order import Window
from gan_dist.data.shards import ImageSet, Rows

READ_AHEAD = 4


def read_all(images: ImageSet) -> Rows:
    """Return the whole set."""
    return Rows.concatenate([images.read_group(group) for group in range(len(images.group_rows))])


def read_window(images: ImageSet, window: Window) -> Rows:
    """Return a window's rows in the order in which they are shown."""
    parts = [images.read_group(piece.group)[piece.start : piece.stop] for piece in window.pieces]
    return Rows.concatenate(parts)[window.permutation()]


class Resident:
    """Yields windows from memory.

    Args:
        images: A set of which every row is read now.
    """

    def __init__(self, images: ImageSet) -> None:
        self._rows = read_all(images)
        self._begins = np.concatenate([[0], np.cumsum(images.group_rows)])

    def __call__(self, windows: Iterable[Window]) -> Iterator[tuple[Window, Rows]]:
        for window in windows:
            parts = [
                np.arange(piece.start, piece.stop) + self._begins[piece.group] for piece in window.pieces
            ]
            yield window, self._rows[np.concatenate(parts)[window.permutation()]]


class Direct:
    """Yields windows as they are read by a few threads of this process.

    Args:
        images: The set to read.
    """

    def __init__(self, images: ImageSet) -> None:
        self._images = images

    def __call__(self, windows: Iterable[Window]) -> Iterator[tuple[Window, Rows]]:
        pending: deque[tuple[Window, Future[Rows]]] = deque()
        with ThreadPoolExecutor(READ_AHEAD, thread_name_prefix="read") as pool:
            try:
                for window in windows:
                    pending.append((window, pool.submit(read_window, self._images, window)))
                    if len(pending) > READ_AHEAD:
                        ready, rows = pending.popleft()
                        yield ready, rows.result()
                for ready, rows in pending:
                    yield ready, rows.result()
            finally:
                for _, rows in pending:
                    rows.cancel()
