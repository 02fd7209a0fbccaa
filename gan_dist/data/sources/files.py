"""Reads image files, or ranges of bytes in larger ones, below a folder or a bucket's prefix."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gan_dist import storage
from gan_dist.data.decode import RejectedError
from gan_dist.data.sources.items import Item, Reader
from gan_dist.errors import StorageError
from gan_dist.storage import shown

READ_AHEAD = 4 * 2**20


@dataclass(frozen=True)
class Files:
    """Whole files, or ranges of bytes in them, below a folder."""

    root: str

    def open(self) -> Reader:
        """Return what reads items; neighbours in one file share a read."""
        return _FileReader(self.root)


class _FileReader:
    def __init__(self, root: str) -> None:
        self._uri = root
        self._filesystem, self._root = storage.open_uri(root)
        self._name = ""
        self._file: Any = None
        self._begin, self._held = 0, b""

    def __call__(self, item: Item) -> bytes:
        try:
            if item.at is None:
                with self._filesystem.open_input_stream(f"{self._root}/{item.file}") as stream:
                    return bytes(stream.read())
            return self._range(item.file, item.at, item.size)
        except FileNotFoundError:
            raise RejectedError("the file is gone") from None
        except PermissionError:
            raise RejectedError("no permission to read the file") from None
        except OSError as error:
            raise StorageError(f"{item.file} of {shown(self._uri)} cannot be read: {error}") from None

    def _range(self, name: str, start: int, size: int) -> bytes:
        if self._name != name:
            self._file = self._filesystem.open_input_file(f"{self._root}/{name}")
            self._name, self._held = name, b""
        if not self._begin <= start <= start + size <= self._begin + len(self._held):
            self._begin, self._held = start, self._file.read_at(max(size, READ_AHEAD), start)
        return self._held[start - self._begin :][:size]
