"""Which row when: the order of images as a pure function of seed, set and position. No I/O, no Ray.

The run is an endless sequence of slots 0, 1, 2, ...; slot i shows one image and i is the clock, images seen.
With N images, epoch e is the slots [e*N, (e+1)*N), and its rows are a permutation of the set: every image is
shown exactly once an epoch. Batch b is the slots [b*B, (b+1)*B); a batch may span two epochs, so no tail is
dropped or padded.

Slot i belongs to stream i mod S. For every epoch the groups of rows (what storage can read at once) are put
in a fresh random order and cut into S segments, one a stream; a stream cuts its segment into windows of whole
pieces of groups, and shuffles the rows of each window. So a stream reads few, large, contiguous parts, yet a
batch draws from S places of the set.

Neither S nor the windows depend on the number of workers. Within a batch the slots are sorted by stream, and
rank r of W takes the r-th of W equal parts: the global batches are the same for every W that divides B, and
where W divides S and S divides B no two ranks read the same stream. The whole state is one integer, the slot
to go on from.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from gan_dist.core import rng

MAX_STREAMS = 32
GROUPS_PER_STREAM = 4


@dataclass(frozen=True)
class GroupSlice:
    """Rows [start, stop) of one group."""

    group: int
    start: int
    stop: int

    def __len__(self) -> int:
        return self.stop - self.start


@dataclass(frozen=True)
class Window:
    """Rows that are shuffled together: positions [start, stop) of a stream."""

    stream: int
    epoch: int
    start: int
    stop: int
    pieces: tuple[GroupSlice, ...]
    seed: int

    def __len__(self) -> int:
        return self.stop - self.start

    def permutation(self) -> npt.NDArray[np.intp]:
        """Return the order in which the pieces' rows, laid end to end, are shown."""
        return rng.permutation(len(self), self.seed, "window", self.stream, self.start)


class BatchSlice(NamedTuple):
    """Positions [start, stop) of a stream, which a rank's part of a batch consists of."""

    stream: int
    start: int
    stop: int


def choose_streams(group_count: int) -> int:
    """Return the number of streams for a set: a power of two that leaves each a few groups an epoch."""
    streams = 1
    while streams < MAX_STREAMS and streams * 2 * GROUPS_PER_STREAM <= group_count:
        streams *= 2
    return streams


class Order:
    """The order of a set of groups of rows.

    Args:
        group_rows: Rows in each group.
        seed: The run's seed.
        batch_size: Images in a global batch.
        streams: Number of canonical streams; `choose_streams` when None.
        window: Images that are shuffled at once, over all streams together.
    """

    def __init__(
        self, group_rows: Sequence[int], *, seed: int, batch_size: int, streams: int | None, window: int
    ) -> None:
        self.group_rows = np.asarray(group_rows, dtype=np.int64)
        self.count = int(self.group_rows.sum())
        self.seed = seed
        self.batch_size = batch_size
        self.streams = streams or choose_streams(len(group_rows))
        self.stream_window = max(1, window // self.streams)
        longest = max(self.stream_window, int(self.group_rows.max()))
        self.window_slots = min(self.count, self.streams * longest)
        """Roughly the slots that one window of every stream covers."""
        self._epoch_layout = lru_cache(maxsize=2)(self._layout)

    def position(self, stream: int, slot: int) -> int:
        """Return how many of a stream's slots lie before `slot`."""
        return -((stream - slot) // self.streams)

    def windows(self, streams: Sequence[int], start: int, stop: int) -> Iterator[Window]:
        """Yield the windows that slots [start, stop) need of some streams, by their first slot."""
        ordered = [self._stream_windows(stream, start, stop) for stream in streams]
        return heapq.merge(*ordered, key=lambda window: window.start * self.streams + window.stream)

    def rank_streams(self, rank: int, world_size: int) -> list[int]:
        """Return the streams of which a rank needs rows."""
        # The division of batches among streams repeats after at most S batches.
        takes = (self.takes(batch * self.batch_size, rank, world_size) for batch in range(self.streams))
        return sorted({take.stream for batch in takes for take in batch})

    def takes(self, slot: int, rank: int, world_size: int) -> list[BatchSlice]:
        """Return what a rank shows of the batch that begins at `slot`, in order."""
        share = self.batch_size // world_size
        low, high = rank * share, (rank + 1) * share
        takes = []
        before = 0
        begin, end = slot, slot + self.batch_size
        for stream in range(self.streams):
            # `position`, written out: this is on every batch's way.
            start, stop = -((stream - begin) // self.streams), -((stream - end) // self.streams)
            after = before + stop - start
            if after > low and before < high:
                first, last = max(low - before, 0), min(high - before, stop - start)
                if first < last:
                    takes.append(BatchSlice(stream, start + first, start + last))
            before = after
        return takes

    def rows_shown(self, window: Window, rank: int, world_size: int) -> npt.NDArray[np.int64]:
        """Return which of a rank's rows show a window's positions: -1 where another rank does.

        A rank's rows are its parts of all batches laid end to end: row 0 is the first of batch 0.
        """
        positions = np.arange(window.start, window.stop)
        batches = (positions * self.streams + window.stream) // self.batch_size
        begins = batches * self.batch_size
        # A batch is sorted by stream: before a slot come those of lower streams and the earlier of its own.
        rows = self._below(begins + self.batch_size, window.stream) - self._below(begins, window.stream)
        rows += positions + (window.stream - begins) // self.streams
        share = self.batch_size // world_size
        owners, rows = np.divmod(rows, share)
        return np.where(owners == rank, batches * share + rows, -1)

    def _below(self, slots: npt.NDArray[np.int64], stream: int) -> npt.NDArray[np.int64]:
        """Return how many slots before each of `slots` belong to lower streams than `stream`."""
        rounds, rest = np.divmod(slots, self.streams)
        return rounds * stream + np.minimum(rest, stream)

    def _stream_windows(self, stream: int, start: int, stop: int) -> Iterator[Window]:
        first, last = self.position(stream, start), self.position(stream, stop)
        if first == last:
            return
        epoch = start // self.count
        while self.position(stream, epoch * self.count) < last:
            for window in self._epoch_windows(stream, epoch):
                if window.stop > first and window.start < last:
                    yield window
            epoch += 1

    def _epoch_windows(self, stream: int, epoch: int) -> Iterator[Window]:
        begin = self.position(stream, epoch * self.count)
        held: list[GroupSlice] = []
        rows = 0
        for piece in self._segment(stream, epoch):
            held.append(piece)
            rows += len(piece)
            if rows >= self.stream_window:
                yield Window(stream, epoch, begin, begin + rows, tuple(held), self.seed)
                begin, held, rows = begin + rows, [], 0
        if held:
            yield Window(stream, epoch, begin, begin + rows, tuple(held), self.seed)

    def _segment(self, stream: int, epoch: int) -> Iterator[GroupSlice]:
        """Yield the pieces of groups that are a stream's part of an epoch."""
        groups, ends, borders = self._epoch_layout(epoch)
        low, high = int(borders[stream]), int(borders[stream + 1])
        index = int(np.searchsorted(ends, low, side="right"))
        while low < high:
            group, end = int(groups[index]), int(ends[index])
            begin = end - int(self.group_rows[group])
            yield GroupSlice(group, low - begin, min(high, end) - begin)
            low, index = end, index + 1

    def _layout(
        self, epoch: int
    ) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
        """Return an epoch's order of groups, where each ends, and where the streams' segments begin."""
        groups = rng.permutation(len(self.group_rows), self.seed, "epoch", epoch)
        ends = np.cumsum(self.group_rows[groups])
        first, last = epoch * self.count, (epoch + 1) * self.count
        lengths = [self.position(s, last) - self.position(s, first) for s in range(self.streams)]
        return groups, ends, np.concatenate([[0], np.cumsum(lengths)])
