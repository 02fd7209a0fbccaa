"""Image files, or ranges of bytes in larger ones, below a folder or a bucket's prefix."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from gan_dist.core import storage
from gan_dist.data.packing.decode import RejectedError
from gan_dist.data.packing.sources.items import Item, Reader

READ_AHEAD = 4 * 2**20
STORE_READERS = 16
"""Whole files read at a time from a store, where each waits for the store's latency."""


@dataclass(frozen=True)
class Files:
    """Whole files below a folder."""

    root: str

    @property
    def readers(self) -> int:
        """How many threads should read items at a time."""
        return STORE_READERS if "://" in self.root else 1

    def open(self) -> Reader:
        """Return what reads items, in any thread."""
        filesystem, folder = storage.open_uri(self.root)

        def whole(item: Item) -> bytes:
            with filesystem.open_input_stream(f"{folder}/{item.file}") as stream:
                content = bytes(stream.read())
            if filesystem.type_name != "local" and item.size and len(content) != item.size:
                raise OSError(f"{len(content)} of {item.size} bytes arrived")
            return content

        return lambda item: _tried(storage.join(self.root, item.file), lambda: whole(item), item.size)


@dataclass(frozen=True)
class Ranges:
    """Ranges of bytes in files below a folder."""

    root: str
    readers = 1

    def open(self) -> Reader:
        """Return what reads items; neighbours in one file share a read."""
        return _RangeReader(self.root)


class _RangeReader:
    def __init__(self, root: str) -> None:
        self._uri = root
        self._filesystem, self._root = storage.open_uri(root)
        self._name = ""
        self._file: Any = None
        self._begin, self._held = 0, b""

    def __call__(self, item: Item) -> bytes:
        return _tried(storage.join(self._uri, item.file), lambda: self._range(item), READ_AHEAD)

    def _range(self, item: Item) -> bytes:
        name, start, size = item.file, item.at or 0, item.size
        if self._name != name:
            self._file = self._filesystem.open_input_file(f"{self._root}/{name}")
            self._name, self._held = name, b""
        if not self._begin <= start <= start + size <= self._begin + len(self._held):
            self._begin, self._held = start, self._file.read_at(max(size, READ_AHEAD), start)
        return self._held[start - self._begin :][:size]


class SteadyFile(io.RawIOBase):
    """A file opened for reading, whose every read is tried as often as its store needs.

    Whatever a library makes of its content, an `OSError` is then the library's, a `StorageError` the store's.

    Raises:
        StorageError: it cannot be opened; `read` raises it, too.
    """

    def __init__(self, uri: str) -> None:
        super().__init__()
        filesystem, path = storage.open_uri(uri)
        self._uri, self._at = uri, 0
        self._file = storage.retrying(uri, lambda: filesystem.open_input_file(path))
        self._size: int = storage.retrying(uri, self._file.size)

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def read(self, size: int = -1) -> bytes:
        start, left = self._at, max(0, self._size - self._at)
        count = left if size < 0 else min(size, left)

        def whole() -> bytes:
            content = bytes(self._file.read_at(count, start))
            if len(content) != count:
                raise OSError(f"{len(content)} of {count} bytes arrived")
            return content

        content = storage.retrying(self._uri, whole, count) if count else b""
        self._at += count
        return content

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _tried(uri: str, read: Callable[[], bytes], size: int) -> bytes:
    """Read in as many tries as a store needs; a file that is gone or closed to us is a rejection."""

    def attempt() -> bytes | RejectedError:
        try:
            return read()
        except FileNotFoundError:
            return RejectedError("the file is gone")
        except PermissionError:
            if "://" in uri:
                # A store says so of credentials that have expired, too.
                raise
            return RejectedError("no permission to read the file")

    outcome = storage.retrying(uri, attempt, size)
    if isinstance(outcome, RejectedError):
        raise outcome
    return outcome
