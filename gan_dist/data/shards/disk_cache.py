"""A cache of row groups on a node's own disk: a set in object storage is fetched once, not once an epoch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from filelock import FileLock

from gan_dist.core import storage
from gan_dist.core.errors import DataError, StorageError
from gan_dist.data.shards.manifest import Manifest
from gan_dist.data.shards.row_group import LocalFile
from gan_dist.data.shards.rows import Rows
from gan_dist.data.shards.shard_set import ShardSet

SUFFIX = ".rows"
_SUFFIXES = (SUFFIX, ".partial", ".arrow")  # the last is of earlier versions
_MAGIC = b"gan-dist row group of "
"""Begins a cached file's first line, which ends with the URI of the shard; pixels and labels follow."""
_LONGEST_LINE = 2**14
LOCK_S = 10.0
"""Seconds to wait while another process writes; after that the row group is not cached."""
ASK_AGAIN_S = 600.0
"""Seconds for which a store that could not say whether it has a shard is not asked again."""


class DiskCached:
    """A set whose row groups are read from a folder of this node, and written there when they are fetched.

    The folder never holds more than `limit` bytes: the row groups used longest ago are deleted. One whose
    shard is no longer in storage stays, whatever its age, since nothing could bring it back; so does one
    whose store does not answer. Any number of processes may share a folder, and any number of sets.
    """

    def __init__(self, images: ShardSet, folder: str, limit: int) -> None:
        self._images, self._folder, self._limit = images, Path(folder), limit
        self._prefix = images.manifest.fingerprint()[:16]
        self._ask_at: dict[str, float] = {}
        self.manifest: Manifest = images.manifest
        self.group_rows = images.group_rows

    def read_group(self, group: int) -> Rows:
        path = self._folder / f"{self._prefix}-{group:08d}{SUFFIX}"
        rows = self._load(path, group)
        if rows is None:
            rows = self._images.read_group(group)
            self._save(path, rows, self._images.shard_uri(group))
        return rows

    def read_parts(self, group: int) -> Iterator[tuple[int, Rows]]:
        yield 0, self.read_group(group)

    def _load(self, path: Path, group: int) -> Rows | None:
        try:
            with LocalFile(str(path)) as file:
                rows = self.manifest.empty(self.group_rows[group])
                arrays = _arrays(rows)
                at = file.size - sum(array.nbytes for array in arrays)
                for array in arrays:
                    file.read_into(at, array)
                    at += array.nbytes
            self._images.check(group, rows)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, DataError):
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)
        return rows

    def _save(self, path: Path, rows: Rows, origin: str) -> None:
        line = _MAGIC + origin.encode() + b"\n"
        arrays = _arrays(rows)
        # A disk that is full, read-only, locked or without locks makes training slower, not impossible.
        with suppress(OSError, NotImplementedError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / "lock", timeout=LOCK_S):
                if path.exists() or not self._make_room(len(line) + sum(array.nbytes for array in arrays)):
                    return
                partial = path.with_suffix(".partial")
                with partial.open("wb") as file:
                    file.write(line)
                    for array in arrays:
                        file.write(np.ascontiguousarray(array).data)
                partial.replace(path)

    def _make_room(self, size: int) -> bool:
        """Delete what was used longest ago until `size` bytes more fit; return whether they do."""
        entries: list[tuple[float, int, Path]] = []
        for path in self._folder.iterdir():
            # Another process deletes what it finds damaged.
            with suppress(FileNotFoundError):
                if path.suffix in _SUFFIXES:
                    status = path.stat()
                    entries.append((status.st_mtime, status.st_size, path))
        total = sum(count for _, count, _ in entries)
        for _, count, entry in sorted(entries):
            if total + size <= self._limit:
                break
            # What a killed process left half-written may go, too.
            if entry.suffix != SUFFIX or self._is_evictable(entry):
                entry.unlink(missing_ok=True)
                total -= count
        return total + size <= self._limit

    def _is_evictable(self, entry: Path) -> bool:
        """Return whether a file is no row group, or one that storage still has."""
        origin = _origin(entry)
        if origin is None:
            return True
        place = storage.bucket_of(origin)
        if time.monotonic() < self._ask_at.get(place, 0.0):
            return False
        try:
            return storage.exists(origin)
        except (StorageError, ValueError):
            self._ask_at[place] = time.monotonic() + ASK_AGAIN_S
            return False


def _arrays(rows: Rows) -> list[npt.NDArray[Any]]:
    return [rows.pixels] if rows.labels is None else [rows.pixels, rows.labels]


def _origin(path: Path) -> str | None:
    """Return the URI of the shard that a cached row group is from; None for what is no row group."""
    with suppress(OSError, ValueError), path.open("rb") as file:
        line = file.readline(_LONGEST_LINE)
        if line.startswith(_MAGIC) and line.endswith(b"\n"):
            return line[len(_MAGIC) : -1].decode()
    return None
