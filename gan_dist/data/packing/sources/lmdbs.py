"""LMDB environments of encoded images, as LSUN is published: one image a key, without labels."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from gan_dist.core import storage
from gan_dist.core.errors import DataError
from gan_dist.core.storage import redact
from gan_dist.data.packing.decode import RejectedError
from gan_dist.data.packing.sources.items import (
    LMDB_SUFFIXES,
    UNLABELLED,
    FoundFile,
    Item,
    Reader,
    Source,
    cut,
)

PRINT_KEYS = """
import sys, lmdb
with lmdb.open(sys.argv[1], subdir=False, readonly=True, lock=False, readahead=False) as environment:
    with environment.begin() as transaction:
        for key in transaction.cursor().iternext(keys=True, values=False):
            sys.stdout.buffer.write(len(key).to_bytes(2, "little") + key)
"""
"""Run in a process of its own, which a damaged page ends: LMDB checks pages by assertions."""
AGAIN = "fetch it again, or remove it"
_opened: tuple[tuple[str, int, int], Any] | None = None
"""The file that this process has open: path, size, time, and the environment. LMDB opens no file twice."""


def is_lock(file: FoundFile) -> bool:
    """Return whether a file is the lock beside an LMDB."""
    path = PurePosixPath(file.path)
    name = path.name.lower()
    return name == "lock.mdb" or (
        name.endswith("-lock") and path.with_name(path.name[:-5]).suffix in LMDB_SUFFIXES
    )


def open_lmdbs(root: str, files: Sequence[FoundFile]) -> Source:
    """Return the values of LMDB environments, in the order of their keys, without labels.

    Raises:
        DataError: a file is damaged, is no LMDB, is in a bucket, or the package `lmdb` is missing.
    """
    if "://" in root and not root.startswith("file://"):
        raise DataError(
            f"{redact(root)}: an LMDB is read by mapping its file into memory, which a bucket cannot give",
            "copy it to a disk that every node sees, and give its path",
        )
    items: list[Item] = []
    for file in files:
        items += _list_keys(root, file.path)
    if not items:
        raise DataError(f"{redact(root)}: the LMDB holds no keys")
    return Source(Values(root), items, None, [], [])


@dataclass(frozen=True)
class Values:
    """Values of LMDB environments below a local folder that every node sees."""

    root: str
    readers = 1

    def open(self) -> Reader:
        """Return what reads items."""
        return lambda item: _value(self.root, item)


def _list_keys(root: str, name: str) -> list[Item]:
    _environment(root, name)  # says what is wrong with the file itself
    path = storage.open_uri(storage.join(root, name))[1]
    child = subprocess.run([sys.executable, "-c", PRINT_KEYS, path], capture_output=True, check=False)
    if child.returncode:
        said = child.stderr.decode(errors="replace").strip().rpartition("\n")[2]
        raise DataError(f"{path} is damaged ({cut(said)})", AGAIN)
    content, at = child.stdout, 0
    items: list[Item] = []
    while at < len(content):
        begin = at + 2
        at = begin + int.from_bytes(content[at:begin], "little")
        key = content[begin:at]
        shown = f"{name}#{key.decode(errors='backslashreplace')}"
        items.append(Item(shown, name, None, 0, UNLABELLED, key))
    return items


def _value(root: str, item: Item) -> bytes:
    environment = _environment(root, item.file)
    try:
        with environment.begin() as transaction:
            value = transaction.get(item.inside)
    except Exception as error:  # whatever the package, which is optional, raises for damage
        raise RejectedError(f"damaged LMDB: {error}") from None
    if value is None:
        raise RejectedError("the key is gone")
    return bytes(value)


def _environment(root: str, name: str) -> Any:
    """Return an environment, opened for reading only; nothing is written, not even a lock."""
    global _opened
    try:
        import lmdb
    except ImportError:
        raise DataError(
            f"{name} is an LMDB, which needs the package lmdb", 'pip install "gan-dist[lmdb]"'
        ) from None
    path = Path(storage.open_uri(root)[1]) / name
    status = storage.retrying(str(path), path.stat)
    key = (str(path), status.st_size, status.st_mtime_ns)
    if _opened is not None and _opened[0] == key:
        return _opened[1]
    if _opened is not None:
        _opened[1].close()
        _opened = None
    try:
        opened = lmdb.open(str(path), subdir=False, readonly=True, lock=False, readahead=False)
    except lmdb.Error as error:
        raise DataError(f"{path} cannot be read as an LMDB ({cut(error)})", AGAIN) from None
    # Reading a page that the file does not have would end this process.
    if (needed := (opened.info()["last_pgno"] + 1) * opened.stat()["psize"]) > status.st_size:
        opened.close()
        what = f"{path} is cut off: it has {status.st_size:,} of {needed:,} bytes"
        raise DataError(what, AGAIN)
    _opened = key, opened
    return opened
