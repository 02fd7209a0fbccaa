"""Order of images: a pure function of the seed, the set and the position. No I/O, no Ray.

A run is an endless sequence of slots 0, 1, 2, ...; slot i holds one image and i is the clock, images seen.
With N images, epoch e is the slots [e*N, (e+1)*N), a permutation of the set: every image comes exactly once
an epoch. Batch b is the slots [b*B, (b+1)*B); a batch may span two epochs, so no tail is dropped or padded.

Words, in the whole of `gan_dist.data`:
  row group     rows that storage reads at once, `group` for short; a shard is a file of several
  group slice   consecutive rows of one group
  stream        one of S interleaved sequences of images: slot i belongs to stream i mod S
  segment       a stream's images of one epoch: consecutive group slices
  window        group slices of a segment whose rows are shuffled together
  part          rows of a group as they are read, a few mebibytes at a time
  block         memory of several consecutive batches of a rank

For every epoch the groups are put in a fresh random order and cut into S segments, one a stream; a stream
cuts its segment into windows and shuffles the rows of each. So a stream reads few, large, contiguous slices,
yet a batch draws from S places of the set.

Neither S nor the windows depend on the number of workers. Within a batch the slots are sorted by stream, and
rank r of W has the r-th of W equal parts: the global batches are the same for every W that divides B, and
where W divides S and S divides B no two ranks read the same stream. The whole state is one integer, the next
slot.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

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
    """Rows that are shuffled together, at positions [start, stop) of a stream."""

    stream: int
    epoch: int
    start: int
    stop: int
    slices: tuple[GroupSlice, ...]
    seed: int

    def __len__(self) -> int:
        return self.stop - self.start

    def permutation(self) -> npt.NDArray[np.intp]:
        """Return a permutation of the rows of all slices, laid end to end."""
        return rng.permutation(len(self), self.seed, "window", self.stream, self.start)


def choose_streams(group_count: int) -> int:
    """Return the number of streams for a set: a power of two that leaves each a few groups an epoch."""
    streams = 1
    while streams < MAX_STREAMS and streams * 2 * GROUPS_PER_STREAM <= group_count:
        streams *= 2
    return streams


class Order:
    """The order of a set of groups of rows, in global batches of `batch_size` images.

    `streams` is the number of streams, `choose_streams` when None; `window` is the number of images that are
    shuffled at once, over all streams together.
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
        """Return the number of a stream's slots before `slot`."""
        return -((stream - slot) // self.streams)

    def windows(self, streams: Sequence[int], start: int, stop: int) -> Iterator[Window]:
        """Yield the windows of some streams that cover slots [start, stop), by their first slot."""
        ordered = [self._stream_windows(stream, start, stop) for stream in streams]
        return heapq.merge(*ordered, key=lambda window: window.start * self.streams + window.stream)

    def rank_streams(self, rank: int, world_size: int) -> list[int]:
        """Return the streams that have rows for a rank."""
        size, own = self.batch_size // world_size, set[int]()
        # Batches are sorted by stream, and divide among the streams alike after at most S of them.
        for start in range(0, math.lcm(self.streams, self.batch_size), self.batch_size):
            streams = np.sort(np.arange(start, start + self.batch_size) % self.streams)
            own.update(streams[rank * size : (rank + 1) * size].tolist())
        return sorted(own)

    def rank_rows(self, window: Window, rank: int, world_size: int) -> npt.NDArray[np.int64]:
        """Return the rank's row at each position of a window; -1 where the position is another rank's.

        A rank's rows are its parts of all batches, laid end to end: row 0 is the first of batch 0.
        """
        positions = np.arange(window.start, window.stop)
        batches = (positions * self.streams + window.stream) // self.batch_size
        begins = batches * self.batch_size
        # A batch is sorted by stream: before a slot come those of lower streams and the earlier of its own.
        rows = self._below(begins + self.batch_size, window.stream) - self._below(begins, window.stream)
        rows += positions + (window.stream - begins) // self.streams
        size = self.batch_size // world_size
        owners, rows = np.divmod(rows, size)
        return np.where(owners == rank, batches * size + rows, -1)

    def _below(self, slots: npt.NDArray[np.int64], stream: int) -> npt.NDArray[np.int64]:
        """Return the number of slots before each of `slots` that belong to lower streams than `stream`."""
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
        slices: list[GroupSlice] = []
        rows = 0
        for one in self._segment(stream, epoch):
            slices.append(one)
            rows += len(one)
            if rows >= self.stream_window:
                yield Window(stream, epoch, begin, begin + rows, tuple(slices), self.seed)
                begin, slices, rows = begin + rows, [], 0
        if slices:
            yield Window(stream, epoch, begin, begin + rows, tuple(slices), self.seed)

    def _segment(self, stream: int, epoch: int) -> Iterator[GroupSlice]:
        """Yield the group slices of a stream's segment of an epoch."""
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
        """Return an epoch's order of groups, the end of each, and the borders of the streams' segments."""
        groups = rng.permutation(len(self.group_rows), self.seed, "epoch", epoch)
        ends = np.cumsum(self.group_rows[groups])
        first, last = epoch * self.count, (epoch + 1) * self.count
        lengths = [self.position(s, last) - self.position(s, first) for s in range(self.streams)]
        return groups, ends, np.concatenate([[0], np.cumsum(lengths)])
