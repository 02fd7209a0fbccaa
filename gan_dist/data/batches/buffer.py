"""Batches in the making: rows go where they will be shown as they are read, in whatever order that is."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from gan_dist.data.order import Order, Window
from gan_dist.data.shards.rows import Rows


class BatchBuffer:
    """A rank's batches to come, put together window by window.

    Batches lie in blocks of memory, each of as many batches as one window of every stream fills. A block is
    allocated when the first window that fills it is to be read, and freed with the last of its batches.

    Args:
        order: The order of a run.
        empty: Makes so many rows whose values are still to be written.
        rank: Whose batches.
        world_size: Number of ranks.
        start: Images seen before the first batch.
        stop: Images seen after the last one.
    """

    def __init__(
        self,
        order: Order,
        empty: Callable[[int], Rows],
        *,
        rank: int,
        world_size: int,
        start: int,
        stop: int,
    ) -> None:
        self._order, self._empty, self._rank, self._world_size = order, empty, rank, world_size
        self._share = order.batch_size // world_size
        self._first = start // order.batch_size * self._share
        self._end = stop // order.batch_size * self._share
        self._batches = max(1, order.window_slots // order.batch_size)
        self._blocks: dict[int, Rows] = {}
        self._counts: dict[int, int] = {}

    @property
    def block_rows(self) -> int:
        """Rows of the batches whose memory is taken at once."""
        return self._batches * self._share

    def filling(self, window: Window) -> WindowWriter:
        """Return what puts a window's rows into the batches that show them."""
        shown = self._order.rows_shown(window, self._rank, self._world_size)
        shown[(shown < self._first) | (shown >= self._end)] = -1
        at = np.empty_like(shown)
        at[window.permutation()] = shown
        numbers = np.unique(at[at >= 0] // self.block_rows).tolist()
        return WindowWriter(window, at, {number: self._block(number) for number in numbers})

    def _block(self, number: int) -> Rows:
        if number not in self._blocks:
            # Taken by the one thread that shows batches: the C library keeps its freed memory for the next.
            self._blocks[number] = self._empty(self.block_rows)
        return self._blocks[number]

    def take_in(self, filling: WindowWriter) -> int:
        """Note that a window's rows are all there; return how many of them are this rank's."""
        batches, counts = np.unique(filling.at[filling.at >= 0] // self._share, return_counts=True)
        for batch, count in zip(batches.tolist(), counts.tolist(), strict=True):
            self._counts[batch] = self._counts.get(batch, 0) + count
        return int(counts.sum())

    def is_whole(self, batch: int) -> bool:
        """Return whether all rows of a batch are there."""
        return self._counts.get(batch) == self._share

    def take_out(self, batch: int) -> Rows:
        """Return this rank's part of a batch, which is whole; batches are taken out one after another."""
        del self._counts[batch]
        number, place = divmod(batch, self._batches)
        rows = self._blocks[number][place * self._share : (place + 1) * self._share]
        if place == self._batches - 1:
            del self._blocks[number]
        return rows


class WindowWriter:
    """A window's rows on their way into batches.

    Args:
        window: The window.
        at: For each row of its pieces, laid end to end, where in the rank's rows it belongs; -1 for nowhere.
        blocks: The rank's rows in blocks of equal size, by number, as far as the window needs them.
    """

    def __init__(self, window: Window, at: npt.NDArray[np.int64], blocks: dict[int, Rows]) -> None:
        self.window, self.at, self._blocks = window, at, blocks

    def put(self, first: int, rows: Rows) -> None:
        """Copy rows to where they belong; any thread may, and rows that were put before are replaced.

        Args:
            first: Which of the window's pieces' rows, laid end to end, comes first.
            rows: That one and those that follow it.
        """
        at = self.at[first : first + len(rows)]
        for number, block in self._blocks.items():
            places = at - number * len(block)
            chosen = (places >= 0) & (places < len(block))
            if chosen.all():
                block.put(places, rows)
            elif chosen.any():
                block.put(places[chosen], rows[np.flatnonzero(chosen)])
