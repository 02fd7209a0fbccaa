"""The reader of row groups: pixels and labels at their places in a shard, hashed as they are read.

A shard's columns are neither compressed nor dictionary-encoded: values lie in the file as they lie in memory.
The manifest lists where; `parquet_layout` finds the places in a file whose manifest does not.
"""

from __future__ import annotations

import os
from abc import abstractmethod
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from io import FileIO
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
import xxhash

from gan_dist.core import storage
from gan_dist.core.errors import DamagedDataError
from gan_dist.core.storage.durable import require_file
from gan_dist.data.shards.manifest import Manifest, ShardInfo
from gan_dist.data.shards.rows import Rows

CHUNK = 2**21
"""Bytes that are read at once, then hashed and passed on while a processor's cache holds them."""
LABEL_BYTES = 8


class UnreadableError(DamagedDataError):
    """The reason why a row group cannot be read from a file; the caller adds which."""


class ShardFile(AbstractContextManager["ShardFile"]):
    """A file of `size` bytes that is read at offsets."""

    size: int

    def __exit__(self, *_: object) -> None:
        """Close the file."""

    @abstractmethod
    def read_into(self, offset: int, values: npt.NDArray[Any]) -> None:
        """Fill contiguous `values` from the bytes at `offset`."""

    def prefetch(self, begin: int, end: int) -> None:
        """Make bytes [begin, end) ready to be read, where that is not for the operating system."""


class LocalFile(ShardFile):
    """A file on a local disk, of `expected_size` bytes, or any number where None.

    Raises:
        OSError: it cannot be opened; `read_into` raises it, too.
        UnreadableError: it is of another size.
    """

    def __init__(self, path: str, expected_size: int | None = None) -> None:
        require_file(path)
        self._file = FileIO(path)
        self.size = self._file.seek(0, os.SEEK_END)
        if expected_size not in (None, self.size):
            self._file.close()
            raise _other_size(self.size, expected_size)

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def read_into(self, offset: int, values: npt.NDArray[Any]) -> None:
        self._file.seek(offset)
        left = values.reshape(-1).view(np.uint8).data
        while left:
            count = self._file.readinto(left)
            if not count:
                raise OSError(f"it ends at byte {self._file.tell()}, inside the row group")
            left = left[count:]


class MemoryFile(ShardFile):
    """A file in memory."""

    def __init__(self, content: Any) -> None:
        self._begin, self._content = 0, memoryview(content)
        self.size = len(self._content)

    def read_into(self, offset: int, values: npt.NDArray[Any]) -> None:
        self.prefetch(offset, offset + values.nbytes)
        start = offset - self._begin
        found = np.frombuffer(self._content[start : start + values.nbytes], np.uint8)
        values.reshape(-1).view(np.uint8)[:] = found


class StoreFile(MemoryFile):
    """A file of `size` bytes in an object store, of which one span at a time is held; `uri` is for messages.

    Raises:
        AbsentError: the store has no such file; as all of these, raised when bytes are fetched.
        UnreadableError: the file is of another size.
        StorageError: the store cannot be reached.
    """

    def __init__(self, filesystem: Any, path: str, uri: str, size: int) -> None:
        super().__init__(b"")
        self._filesystem, self._path, self._uri, self.size = filesystem, path, uri, size

    def prefetch(self, begin: int, end: int) -> None:
        """Fetch bytes [begin, end) in one request, unless they are held."""
        if self._begin <= begin <= end <= self._begin + len(self._content):
            return
        content = storage.retrying(self._uri, lambda: self._fetch(begin, end), end - begin)
        self._begin, self._content = begin, memoryview(content)

    def _fetch(self, begin: int, end: int) -> Any:
        # Opened for each try: a try that hangs is left behind with its file.
        with self._filesystem.open_input_file(self._path) as source:
            if source.size() != self.size:
                raise _other_size(source.size(), self.size)
            # After `seek` Google's store would be asked for all that follows.
            content = source.read_at(end - begin, begin)
        if len(content) != end - begin:
            raise OSError(f"{len(content)} of {end - begin} bytes arrived")
        return content


def _other_size(size: int, expected: int | None) -> UnreadableError:
    return UnreadableError(f"it is {size} bytes long, not {expected}")


class Run(NamedTuple):
    """Values of `rows` rows, one after another from byte `offset` of a file on."""

    offset: int
    rows: int


class RowGroupExtent(NamedTuple):
    """Places of a row group's values: pixels of `size` bytes a row, and labels, None where there are none."""

    rows: int
    size: int
    pixels: tuple[Run, ...]
    labels: tuple[Run, ...] | None

    @property
    def begin(self) -> int:
        """The first byte of all values."""
        return min(run.offset for run in (*self.pixels, *(self.labels or ())))

    @property
    def end(self) -> int:
        """The byte behind the last of all values."""
        last = max(run.offset + run.rows * self.size for run in self.pixels)
        return max([last, *(run.offset + run.rows * LABEL_BYTES for run in self.labels or ())])

    def read(
        self,
        file: ShardFile,
        state: xxhash.xxh3_128 | None = None,
        check_labels: Callable[[npt.NDArray[np.int64]], None] | None = None,
    ) -> Iterator[tuple[int, Rows]]:
        """Yield the row group in parts of about `CHUNK` bytes: a part's first row, and the part.

        The next part overwrites it. `state` is updated with all that is read: at the end its digest is
        the row group's checksum. `check_labels` gets the labels of all rows, if any, before the first part.

        Raises:
            OSError: the file cannot be read, or ends before the row group does.
        """
        file.prefetch(self.begin, self.end)
        labels = None
        if self.labels is not None:
            labels, first = np.empty(self.rows, dtype=np.int64), 0
            for run in self.labels:
                file.read_into(run.offset, labels[first : first + run.rows])
                first += run.rows
            if check_labels:
                check_labels(labels)
        buffer = np.empty((min(self.rows, max(1, CHUNK // self.size)), self.size), dtype=np.uint8)
        first = 0
        for run in self.pixels:
            for done in range(0, run.rows, len(buffer)):
                pixels = buffer[: run.rows - done]
                file.read_into(run.offset + done * self.size, pixels)
                if state:
                    state.update(pixels.data)
                last = first + len(pixels)
                yield first, Rows(pixels, None if labels is None else labels[first:last])
                first = last
        if state and labels is not None:
            state.update(labels.data)


def listed_extent(manifest: Manifest, shard: ShardInfo, number: int) -> RowGroupExtent | None:
    """Return where a manifest says that a row group is; None where it does not, or the file is too short."""
    labelled = manifest.classes is not None
    for offsets in (shard.pixels_at, *([shard.labels_at] if labelled else [])):
        if len(offsets) != len(shard.row_groups):
            return None
    rows = shard.row_groups[number]
    labels = (Run(shard.labels_at[number], rows),) if labelled else None
    extent = RowGroupExtent(rows, manifest.image_bytes, (Run(shard.pixels_at[number], rows),), labels)
    return extent if extent.end <= shard.bytes else None
