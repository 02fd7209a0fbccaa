"""Buffers of coming batches: rows are copied to their places as they are read, in any order."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gan_dist.data.order import Order, Window
from gan_dist.data.shards.rows import Rows


class BatchBuffer:
    """A rank's coming batches, filled window by window.

    Batches lie in blocks of memory, each of as many batches as one window of every stream fills. A block is
    allocated, by `empty`, before its first window is read, and freed with its last batch. `start` and `stop`
    are images seen before the first batch and after the last one.
    """

    def __init__(
        self, order: Order, empty: Callable[[int], Rows], *, rank: int, world_size: int, start: int, stop: int
    ) -> None:
        self._order, self._empty, self._rank, self._world_size = order, empty, rank, world_size
        self._size = order.batch_size // world_size
        self._first = start // order.batch_size * self._size
        self._end = stop // order.batch_size * self._size
        self._batches = max(1, order.window_slots // order.batch_size)
        self._blocks: dict[int, Rows] = {}
        self._counts: dict[int, int] = {}

    @property
    def block_rows(self) -> int:
        """Rows of a block."""
        return self._batches * self._size

    def writer(self, window: Window) -> WindowWriter:
        """Return a writer of a window's rows into their batches."""
        rows = self._order.rank_rows(window, self._rank, self._world_size)
        rows[(rows < self._first) | (rows >= self._end)] = -1
        at = np.empty_like(rows)
        at[window.permutation()] = rows
        numbers = np.unique(at[at >= 0] // self.block_rows).tolist()
        for number in numbers:
            if number not in self._blocks:
                # By the one thread that yields batches: the C library reuses the memory that it frees.
                self._blocks[number] = self._empty(self.block_rows)
        return WindowWriter(window, at, {number: self._blocks[number] for number in numbers})

    def add(self, writer: WindowWriter) -> int:
        """Count a window whose rows are all written; return how many of them are this rank's."""
        batches, counts = np.unique(writer.at[writer.at >= 0] // self._size, return_counts=True)
        for batch, count in zip(batches.tolist(), counts.tolist(), strict=True):
            self._counts[batch] = self._counts.get(batch, 0) + count
        return int(counts.sum())

    def is_complete(self, batch: int) -> bool:
        """Return whether all rows of a batch are written."""
        return self._counts.get(batch) == self._size

    def pop(self, batch: int) -> Rows:
        """Remove this rank's part of a complete batch and return it; batches come one after another."""
        del self._counts[batch]
        number, place = divmod(batch, self._batches)
        rows = self._blocks[number][place * self._size : (place + 1) * self._size]
        if place == self._batches - 1:
            del self._blocks[number]
        return rows


class WindowWriter:
    """Writes a window's rows into batches.

    `at` is the rank's row for each row of the window's slices, laid end to end, -1 for none; `blocks` are the
    blocks that have any of them, by number.
    """

    def __init__(self, window: Window, at: npt.NDArray[np.int64], blocks: dict[int, Rows]) -> None:
        self.window, self.at, self._blocks = window, at, blocks

    def write(self, first: int, rows: Rows) -> None:
        """Copy rows, numbered from `first` in the window's slices laid end to end, to their places.

        Any thread may, and rows written before are replaced.
        """
        at = self.at[first : first + len(rows)]
        for number, block in self._blocks.items():
            places = at - number * len(block)
            chosen = (places >= 0) & (places < len(block))
            if chosen.all():
                block.put(places, rows)
            elif chosen.any():
                block.put(places[chosen], rows[np.flatnonzero(chosen)])
