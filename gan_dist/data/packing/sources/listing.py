"""Which files there are at a path or URI, local or in a bucket."""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gan_dist.core import storage
from gan_dist.core.errors import DataError
from gan_dist.core.storage import redact
from gan_dist.data.packing.sources.items import FoundFile

LISTING_BYTES = 128 * 2**20
"""What a store may send in listing millions of objects; how many there are it does not tell beforehand."""


def find_files(uri: str) -> tuple[str, list[FoundFile]]:
    """Return a folder and its files at all depths, sorted, hidden ones left out; or a file's folder and it.

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
        raise DataError(f"{redact(uri)} does not exist", "give a folder, a prefix, a tar or a Parquet file")
    if info.type == fs.FileType.File:
        return _folder_of(uri, path), [FoundFile(info.base_name, info.size)]
    if filesystem.type_name == "local":
        found = storage.retrying(uri, lambda: _list_local(uri, path), LISTING_BYTES)
    else:
        selector = fs.FileSelector(path, recursive=True)
        infos = storage.retrying(uri, lambda: filesystem.get_file_info(selector), LISTING_BYTES)
        files = [info for info in infos if info.type != fs.FileType.Directory]
        found = [FoundFile(info.path[len(path) :].lstrip("/"), info.size or 0) for info in files]
    # Workers have other working directories: a local folder is known by its absolute path.
    return uri if "://" in uri else path, sorted(file for file in found if not _is_hidden(file.path))


def _folder_of(uri: str, path: str) -> str:
    if "://" not in uri:
        return str(Path(path).parent)
    base, mark, query = uri.partition("?")
    return base.rpartition("/")[0] + mark + query


def _is_hidden(path: str) -> bool:
    return any(part.startswith(".") or part == "__MACOSX" for part in path.split("/"))


def _list_local(uri: str, root: str) -> list[FoundFile]:
    """Return what a local folder holds; pyarrow passes over links to nothing and follows circles."""
    found: list[FoundFile] = []
    # A folder's path, and where it really is, behind where each link on the way to it is.
    waiting: list[tuple[str, tuple[str, ...]]] = [("", (os.path.realpath(root),))]
    while waiting:
        folder, way = waiting.pop()
        with os.scandir(f"{root}/{folder}") as entries:
            for entry in entries:
                if _is_hidden(entry.name):
                    continue
                path = folder + entry.name
                _require_utf8(uri, path)
                try:
                    status = entry.stat()
                except OSError:
                    if not entry.is_symlink():
                        raise
                    found.append(FoundFile(path, 0, "a link to nothing"))
                    continue
                if stat.S_ISDIR(status.st_mode):
                    waiting.append((f"{path}/", _way(storage.join(uri, path), entry, way)))
                elif stat.S_ISREG(status.st_mode):
                    found.append(FoundFile(path, status.st_size))
                else:
                    # Opening a pipe waits for its writer, and some devices never end.
                    found.append(FoundFile(path, 0, "a pipe, a device or another special file"))
    return found


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
