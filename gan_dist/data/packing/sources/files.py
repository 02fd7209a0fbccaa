"""Files of a source, local or in a bucket: their listing, and reading them whole or in ranges of bytes."""

from __future__ import annotations

import errno
import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gan_dist.core import storage
from gan_dist.core.errors import DataError
from gan_dist.core.storage import redact
from gan_dist.data.packing.decode import RejectedError
from gan_dist.data.packing.sources.items import FoundFile, Item, Reader

LISTING_BYTES = 128 * 2**20
"""Bytes that a store may send to list millions of objects; their number is not known beforehand."""
READ_AHEAD = 4 * 2**20
ODD_KEY = "named by a key with slashes in a row, which opens another's: rename it"
NO_TARGET = "a link to nothing"
CLOSED_FILE = "no permission to read the file"
CLOSED_FOLDER = "no permission to read the folder, with all that it holds"
STORE_READERS = 16
"""Whole files read at a time from a store, where each waits for the store's latency."""


@dataclass(frozen=True)
class Files:
    """Whole files below a folder."""

    root: str

    @property
    def readers(self) -> int:
        return STORE_READERS if "://" in self.root else 1

    def open(self) -> Reader:
        filesystem, folder = storage.open_uri(self.root)

        def whole(item: Item) -> bytes:
            with filesystem.open_input_stream(f"{folder}/{item.file}") as stream:
                content = bytes(stream.read())
            if filesystem.type_name != "local" and item.size and len(content) != item.size:
                raise OSError(f"{len(content)} of {item.size} bytes arrived")
            return content

        return lambda item: _tried(_shown(self.root, item.file), lambda: whole(item), item.size)


@dataclass(frozen=True)
class Ranges:
    """Ranges of bytes in files below a folder."""

    root: str
    readers = 1

    def open(self) -> Reader:
        """Return what reads items; neighbours in one file share a read."""
        ranges = RangeReader(self.root, READ_AHEAD)
        return lambda item: ranges.read(item.file, item.at or 0, item.size)


class RangeReader:
    """Reads ranges of bytes of files below a folder.

    With `ahead` bytes read ahead neighbours share a read, and one thread may read; without, several may.
    """

    def __init__(self, root: str, ahead: int = 0) -> None:
        self._uri, self._ahead = root, ahead
        self._filesystem, self._root = storage.open_uri(root)
        self._opened: tuple[str, Any, int] = ("", None, 0)
        self._held: tuple[str, int, bytes] = ("", 0, b"")
        """Bytes that were read ahead: their file and their beginning in it."""

    def read(self, name: str, start: int, size: int) -> bytes:
        """Return bytes of a file from `start` on, fewer where it ends before.

        Raises:
            RejectedError: the file is gone, or may not be read.
            StorageError: it cannot be read.
        """
        return _tried(_shown(self._uri, name), lambda: self._range(name, start, size), READ_AHEAD)

    def _range(self, name: str, start: int, size: int) -> bytes:
        opened, file, total = self._opened  # at once: other threads read other files
        if opened != name:
            file = self._filesystem.open_input_file(f"{self._root}/{name}")
            total = file.size()
            self._opened = name, file, total
        size = min(size, total - start)
        if not self._ahead:
            return _whole(file, start, size)
        held, begin, content = self._held
        if held != name or not begin <= start <= start + size <= begin + len(content):
            begin, content = start, _whole(file, start, min(max(size, self._ahead), total - start))
            self._held = name, begin, content
        return content[start - begin :][:size]


def _whole(file: Any, start: int, size: int) -> bytes:
    content = bytes(file.read_at(size, start)) if size > 0 else b""
    if len(content) < size:
        raise OSError(f"{len(content)} of {size} bytes arrived")
    return content


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
        at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        if at < 0:
            raise OSError(errno.EINVAL, "before the beginning")
        self._at = at
        return at

    def read(self, size: int = -1) -> bytes:
        start, left = self._at, max(0, self._size - self._at)
        count = left if size < 0 else min(size, left)

        content = storage.retrying(self._uri, lambda: _whole(self._file, start, count), count)
        self._at += count
        return content

    def close(self) -> None:
        if not self.closed:
            self._file.close()
        super().close()


def _shown(root: str, name: str) -> str:
    """Return the URI of a file that is opened by its key, for messages."""
    return storage.join(root, name.replace("?", "%3F") if "://" in root else name)


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
            return RejectedError(CLOSED_FILE)

    outcome = storage.retrying(uri, attempt, size)
    if isinstance(outcome, RejectedError):
        raise outcome
    return outcome


def find_files(uri: str) -> tuple[str, list[FoundFile], list[str]]:
    """Return a folder, its files and its folders at all depths, sorted, without hidden ones.

    Of a file, return its folder and itself. A folder that this user may not read counts as a file that is
    refused.

    Raises:
        DataError: there is nothing of that name, a name is not UTF-8, or a link leads in a circle.
        StorageError: it cannot be read.
    """
    from pyarrow import fs

    filesystem, path = storage.open_uri(uri)
    _require_utf8(uri, path)
    info = storage.retrying(uri, lambda: filesystem.get_file_info(path))
    if info.type == fs.FileType.NotFound:
        storage.require_bucket(uri)
        raise DataError(f"{redact(uri)} does not exist", "give a folder, a prefix, or a file of images")
    if info.type == fs.FileType.File:
        base, mark, query = uri.partition("?")
        folder = base.rpartition("/")[0] + mark + query if "://" in uri else str(Path(path).parent)
        return folder, [FoundFile(info.base_name, info.size)], []
    if filesystem.type_name == "local":
        found, folders = storage.retrying(uri, lambda: _list_local(uri, path), LISTING_BYTES)
    else:
        selector = fs.FileSelector(path, recursive=True)
        infos = storage.retrying(uri, lambda: filesystem.get_file_info(selector), LISTING_BYTES)
        found, folders = _list_store(path, infos)
    # Workers have other working directories: a local folder is known by its absolute path.
    shown = sorted(file for file in found if not is_hidden(file.path))
    return uri if "://" in uri else path, shown, sorted(name for name in folders if not is_hidden(name))


def _list_store(root: str, infos: list[Any]) -> tuple[list[FoundFile], list[str]]:
    """Return the files and folders of a listing; keys that are opened as another's are marked as refused."""
    from pyarrow import fs

    files = [info for info in infos if info.type != fs.FileType.Directory]
    names = storage.names_below(root, (info.path for info in files))
    found = [
        FoundFile(name, info.size or 0) if is_plain else FoundFile(name.lstrip("/"), info.size or 0, ODD_KEY)
        for (name, is_plain), info in zip(names, files, strict=True)
    ]
    return found, [info.path[len(root) + 1 :] for info in infos if info.type == fs.FileType.Directory]


def is_hidden(path: str) -> bool:
    """Return whether a file or a folder on the way to it is none of the owner's, by its name."""
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def _list_local(uri: str, root: str) -> tuple[list[FoundFile], list[str]]:
    """Return what a local folder holds; pyarrow passes over links to nothing and follows circles."""
    found: list[FoundFile] = []
    folders: list[str] = []
    # A folder's path, and where it really is, behind where each link on the way to it is.
    waiting: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(root),))]
    while waiting:
        folder, way = waiting.pop()
        try:
            entries = os.scandir(f"{root}/{folder}")
        except PermissionError:
            if not folder:
                raise
            folders.remove(folder.rstrip("/"))
            found.append(FoundFile(folder.rstrip("/"), 0, CLOSED_FOLDER, is_folder=True))
            continue
        with entries:
            for entry in entries:
                if is_hidden(entry.name):
                    continue
                path = folder + entry.name
                _require_utf8(uri, path)
                try:
                    status = entry.stat()
                except PermissionError:
                    # The folder may be listed, but nothing in it may be reached.
                    is_folder = not entry.is_symlink() and entry.is_dir()
                    found.append(FoundFile(path, 0, CLOSED_FOLDER if is_folder else CLOSED_FILE, is_folder))
                    continue
                except OSError:
                    if not entry.is_symlink():
                        raise
                    found.append(FoundFile(path, 0, NO_TARGET))
                    continue
                if stat.S_ISDIR(status.st_mode):
                    folders.append(path)
                    waiting.append((f"{path}/", _way(storage.join(uri, path), entry, way)))
                elif stat.S_ISREG(status.st_mode):
                    found.append(FoundFile(path, status.st_size))
                else:
                    # Opening a pipe waits for its writer, and some devices never end.
                    found.append(FoundFile(path, 0, "a pipe, a device or another special file"))
    return found, folders


def _way(uri: str, entry: os.DirEntry[str], way: tuple[str, ...]) -> tuple[str, ...]:
    if not entry.is_symlink():
        return (*way[:-1], f"{way[-1]}/{entry.name}")
    target = os.path.realpath(entry.path)
    if any(f"{real}/".startswith(f"{target.rstrip('/')}/") for real in way):
        raise DataError(
            f"{redact(uri)} is a link to {target}, a folder that it lies in: its images would be found again "
            "and again",
            "remove the link",
        )
    return (*way, target)


def _require_utf8(uri: str, name: str) -> None:
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(
            f"{redact(uri)} holds a name that is not UTF-8 ({os.fsencode(name)!r})", "rename it"
        ) from None
