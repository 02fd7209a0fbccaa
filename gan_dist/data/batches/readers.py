"""Sets that fit in memory, and the direct reading of those that do not: batches without Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from gan_dist.data.batches.buffer import BatchBuffer, WindowWriter
from gan_dist.data.order import GroupSlice, Window
from gan_dist.data.shards.manifest import ImageSet
from gan_dist.data.shards.rows import Rows

READERS = 12


def read_all(images: ImageSet) -> Rows:
    """Return the whole set."""
    return Rows.concatenate([images.read_group(group) for group in range(len(images.group_rows))])


def read_pieces(images: ImageSet, pieces: Iterable[GroupSlice]) -> Iterator[tuple[int, Rows]]:
    """Yield the rows of pieces, laid end to end, as they are read: a part's first row, and the part.

    As with a set's own parts, a part is valid until the next, and rows may come again.
    """
    laid = 0
    for piece in pieces:
        for first, part in images.read_parts(piece.group):
            low, high = max(piece.start, first), min(piece.stop, first + len(part))
            if low < high:
                yield laid + low - piece.start, part[low - first : high - first]
        laid += len(piece)


class InMemoryReader:
    """Shows rows from memory.

    What is put into batches are rows' numbers, so that images are copied once and only when they are shown.

    Args:
        images: A set of which every row is read now.
    """

    def __init__(self, images: ImageSet) -> None:
        self._rows = read_all(images)
        self._begins = np.concatenate([[0], np.cumsum(images.group_rows)])

    def __call__(
        self, windows: Iterable[Window], assembly: BatchBuffer, ahead: int
    ) -> Iterator[WindowWriter]:
        for window in windows:
            filling = assembly.filling(window)
            begins = self._begins
            ranges = [np.arange(piece.start, piece.stop) + begins[piece.group] for piece in window.pieces]
            filling.put(0, Rows(np.concatenate(ranges)[:, None].view(np.uint8), None))
            yield filling

    def empty(self, count: int) -> Rows:
        """Return room for so many rows' numbers."""
        return Rows.empty(count, 8, labelled=False)

    def shown(self, rows: Rows) -> Rows:
        """Return the images whose numbers were put."""
        return self._rows[rows.pixels.view(np.int64)[:, 0]]


class ThreadedReader:
    """Shows rows as a few threads of this process read them.

    Args:
        images: The set to read.
    """

    def __init__(self, images: ImageSet) -> None:
        self._images = images

    def __call__(
        self, windows: Iterable[Window], assembly: BatchBuffer, ahead: int
    ) -> Iterator[WindowWriter]:
        def read(filling: WindowWriter) -> WindowWriter:
            for first, part in read_pieces(self._images, filling.window.pieces):
                filling.put(first, part)
            return filling

        pending: deque[Future[WindowWriter]] = deque()
        with ThreadPoolExecutor(READERS, thread_name_prefix="read") as pool:
            try:
                for window in windows:
                    pending.append(pool.submit(read, assembly.filling(window)))
                    if len(pending) > ahead:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for filling in pending:
                    filling.cancel()

    def empty(self, count: int) -> Rows:
        """Return room for so many rows."""
        return self._images.manifest.empty(count)

    def shown(self, rows: Rows) -> Rows:
        """Return the rows as they were put."""
        return rows
