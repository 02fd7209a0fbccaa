"""Sets that fit in memory, and the direct reading of those that do not: windows without Ray."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from gan_dist.data.manifest import ImageSet
from gan_dist.data.order import Window
from gan_dist.data.rows import Rows, Selection

READERS = 12


def read_all(images: ImageSet) -> Rows:
    """Return the whole set."""
    return Rows.concatenate([images.read_group(group) for group in range(len(images.group_rows))])


def read_window(images: ImageSet, window: Window) -> Rows:
    """Return a window's rows in the order in which they are shown."""
    manifest = images.manifest
    size = manifest.height * manifest.width * manifest.channels
    rows = Rows.empty(len(window), size, labelled=manifest.classes is not None)
    # Where each row of the pieces, laid end to end, is shown.
    places = np.empty(len(window), dtype=np.intp)
    places[window.permutation()] = np.arange(len(window))
    begin = 0
    for piece in window.pieces:
        part = images.read_group(piece.group)[piece.start : piece.stop]
        at = places[begin : begin + len(piece)]
        rows.pixels[at] = part.pixels
        if rows.labels is not None and part.labels is not None:
            rows.labels[at] = part.labels
        begin += len(piece)
    return rows


class Resident:
    """Shows windows from memory.

    Args:
        images: A set of which every row is read now.
    """

    def __init__(self, images: ImageSet) -> None:
        self._rows = read_all(images)
        self._begins = np.concatenate([[0], np.cumsum(images.group_rows)])

    def __call__(self, windows: Iterable[Window], ahead: int) -> Iterator[tuple[Window, Selection]]:
        for window in windows:
            parts = [
                np.arange(piece.start, piece.stop) + self._begins[piece.group] for piece in window.pieces
            ]
            yield window, Selection(self._rows, np.concatenate(parts)[window.permutation()])


class Direct:
    """Shows windows as a few threads of this process read them.

    Args:
        images: The set to read.
    """

    def __init__(self, images: ImageSet) -> None:
        self._images = images

    def __call__(self, windows: Iterable[Window], ahead: int) -> Iterator[tuple[Window, Rows | Selection]]:
        pending: deque[tuple[Window, Future[Rows | Selection]]] = deque()
        with ThreadPoolExecutor(READERS, thread_name_prefix="read") as pool:
            try:
                for window in windows:
                    pending.append((window, pool.submit(self._read, window)))
                    if len(pending) > ahead:
                        ready, rows = pending.popleft()
                        yield ready, rows.result()
                while pending:
                    ready, rows = pending.popleft()
                    yield ready, rows.result()
            finally:
                for _, rows in pending:
                    rows.cancel()

    def _read(self, window: Window) -> Rows | Selection:
        if len(window.pieces) > 1:
            return read_window(self._images, window)
        # One piece needs no copy of its own: its rows are picked when a batch is put together.
        piece = window.pieces[0]
        part = self._images.read_group(piece.group)[piece.start : piece.stop]
        return Selection(part, window.permutation())
