"""Readers of windows without Ray: from memory, and by threads."""

from __future__ import annotations

from abc import ABC, abstractmethod
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


def read_slices(images: ImageSet, slices: Iterable[GroupSlice]) -> Iterator[tuple[int, Rows]]:
    """Yield the rows of slices, laid end to end, as they are read: a part's first row, and the part.

    As with a set's own parts, a part is valid until the next, and rows may come again.
    """
    begin = 0
    for one in slices:
        for first, part in images.read_parts(one.group):
            low, high = max(one.start, first), min(one.stop, first + len(part))
            if low < high:
                yield begin + low - one.start, part[low - first : high - first]
        begin += len(one)


class Reader(ABC):
    """A way of reading a set's windows."""

    def __init__(self, images: ImageSet) -> None:
        self._images = images

    @abstractmethod
    def __call__(self, windows: Iterable[Window], buffer: BatchBuffer, ahead: int) -> Iterator[WindowWriter]:
        """Write windows into a buffer, `ahead` of them at once; yield each, in order, once it is written."""

    def empty(self, count: int) -> Rows:
        """Allocate rows for a buffer."""
        return self._images.manifest.empty(count)

    def to_images(self, rows: Rows) -> Rows:
        """Return the images of rows of a buffer."""
        return rows


class InMemoryReader(Reader):
    """Reads windows of a set that is held in memory: all of it is read at once.

    Buffers hold rows' numbers, so that images are copied once and only when their batch is complete.
    """

    def __init__(self, images: ImageSet) -> None:
        super().__init__(images)
        self._rows = read_all(images)
        self._begins = np.concatenate([[0], np.cumsum(images.group_rows)])

    def __call__(self, windows: Iterable[Window], buffer: BatchBuffer, ahead: int) -> Iterator[WindowWriter]:
        for window in windows:
            writer = buffer.writer(window)
            numbers = [np.arange(one.start, one.stop) + self._begins[one.group] for one in window.slices]
            writer.write(0, Rows(np.concatenate(numbers)[:, None].view(np.uint8), None))
            yield writer

    def empty(self, count: int) -> Rows:
        return Rows.empty(count, 8, labelled=False)

    def to_images(self, rows: Rows) -> Rows:
        return self._rows[rows.pixels.view(np.int64)[:, 0]]


class ThreadedReader(Reader):
    """Reads windows by a few threads of this process."""

    def __call__(self, windows: Iterable[Window], buffer: BatchBuffer, ahead: int) -> Iterator[WindowWriter]:
        def read(writer: WindowWriter) -> WindowWriter:
            for first, part in read_slices(self._images, writer.window.slices):
                writer.write(first, part)
            return writer

        pending: deque[Future[WindowWriter]] = deque()
        with ThreadPoolExecutor(READERS, thread_name_prefix="read") as pool:
            try:
                for window in windows:
                    pending.append(pool.submit(read, buffer.writer(window)))
                    if len(pending) > ahead:
                        yield pending.popleft().result()
                while pending:
                    yield pending.popleft().result()
            finally:
                for future in pending:
                    future.cancel()
