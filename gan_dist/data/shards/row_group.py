"""The reader of row groups: pixels and labels at their places in a shard, hashed as they are read.

A shard's columns are neither compressed nor dictionary-encoded: values lie in the file as they lie in memory.
The manifest lists where; `parquet_layout` finds the places in a file whose manifest does not.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from io import FileIO
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt
import xxhash

from gan_dist.core import storage
from gan_dist.core.errors import DataError
from gan_dist.data.shards.manifest import Manifest, ShardInfo
from gan_dist.data.shards.rows import Rows

CHUNK = 2**21
"""Bytes that are read at once, then hashed and passed on while a processor's cache holds them."""
LABEL_BYTES = 8


class UnreadableError(DataError):
    """The reason why a row group cannot be read from a file; the caller adds which."""


class ShardFile(Protocol):
    """A file of `size` bytes that is read at offsets."""

    size: int

    def read_into(self, offset: int, values: npt.NDArray[Any]) -> None:
        """Fill contiguous `values` from the bytes at `offset`."""

    def prefetch(self, begin: int, end: int) -> None:
        """Make bytes [begin, end) ready to be read."""


class LocalFile:
    """A file on a local disk; a context manager.

    Args:
        path: Where it is.
        expected_size: Bytes that it should have; any number where None.

    Raises:
        OSError: it cannot be opened; `read_into` raises it, too.
        UnreadableError: it is of another size.
    """

    def __init__(self, path: str, expected_size: int | None = None) -> None:
        self._file = FileIO(path)
        self.size = self._file.seek(0, os.SEEK_END)
        if expected_size not in (None, self.size):
            self._file.close()
            raise _other_size(self.size, expected_size)

    def __enter__(self) -> LocalFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def prefetch(self, begin: int, end: int) -> None:
        """Do nothing: the operating system reads ahead."""

    def read_into(self, offset: int, values: npt.NDArray[Any]) -> None:
        """Fill contiguous `values` from the bytes at `offset`."""
        self._file.seek(offset)
        left = values.reshape(-1).view(np.uint8).data
        while left:
            count = self._file.readinto(left)
            if not count:
                raise OSError(f"it ends at byte {self._file.tell()}, inside the row group")
            left = left[count:]


class MemoryFile:
    """A file, or a span of one, in memory.

    Args:
        size: Bytes of the file.
        content: Its bytes from `begin` on.
    """

    def __init__(self, size: int, content: Any = b"", begin: int = 0) -> None:
        self.size = size
        self._begin, self._content = begin, memoryview(content)

    def __enter__(self) -> MemoryFile:
        return self

    def __exit__(self, *_: object) -> None:
        self._content = memoryview(b"")

    def prefetch(self, begin: int, end: int) -> None:
        """Do nothing: the bytes are here."""

    def read_into(self, offset: int, values: npt.NDArray[Any]) -> None:
        """Fill contiguous `values` from the bytes at `offset`."""
        self.prefetch(offset, offset + values.nbytes)
        start = offset - self._begin
        found = np.frombuffer(self._content[start : start + values.nbytes], np.uint8)
        values.reshape(-1).view(np.uint8)[:] = found


class StoreFile(MemoryFile):
    """A file in an object store, of which one span at a time is held.

    Args:
        filesystem: The store.
        path: The file's path there.
        uri: Its URI, for messages.
        size: Bytes that it should have.

    Raises:
        AbsentError: the store has no such file; as all of these, raised when bytes are fetched.
        UnreadableError: the file is of another size.
        StorageError: the store cannot be reached.
    """

    def __init__(self, filesystem: Any, path: str, uri: str, size: int) -> None:
        super().__init__(size)
        self._filesystem, self._path, self._uri = filesystem, path, uri

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
            source.seek(begin)
            content = source.read_buffer(end - begin)
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

    def is_within(self, size: int) -> bool:
        """Return whether all values lie in a file of `size` bytes."""
        return self._begin >= 0 and self._end <= size

    @property
    def _begin(self) -> int:
        return min(run.offset for run in (*self.pixels, *(self.labels or ())))

    @property
    def _end(self) -> int:
        last = max(run.offset + run.rows * self.size for run in self.pixels)
        return max([last, *(run.offset + run.rows * LABEL_BYTES for run in self.labels or ())])

    def read(
        self,
        file: ShardFile,
        state: xxhash.xxh3_128 | None = None,
        check_labels: Callable[[npt.NDArray[np.int64]], None] | None = None,
    ) -> Iterator[tuple[int, Rows]]:
        """Yield the row group in parts of about `CHUNK` bytes, which share their memory.

        Args:
            file: The file.
            state: Is updated with all that is read: at the end its digest is the row group's checksum.
            check_labels: Is called with the labels of all rows, if there are any, before the first part.

        Yields:
            The number of a part's first row, and the part, which the next one overwrites.

        Raises:
            OSError: the file cannot be read, or ends before the row group does.
        """
        file.prefetch(self._begin, self._end)
        labels = None if self.labels is None else np.empty(self.rows, dtype=np.int64)
        if labels is not None:
            first = 0
            for run in self.labels or ():
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
    return extent if extent.is_within(shard.bytes) else None
