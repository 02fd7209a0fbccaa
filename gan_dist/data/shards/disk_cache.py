"""Row groups kept on a node's own disk: a set in object storage is fetched once, not once an epoch."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
from filelock import FileLock

from gan_dist.core import storage
from gan_dist.core.errors import DataError, StorageError
from gan_dist.data.shards.manifest import Manifest
from gan_dist.data.shards.rows import Rows, rows_table, table_rows
from gan_dist.data.shards.shard_set import ShardSet

SUFFIX = ".arrow"
ASK_AGAIN_S = 600.0
"""Seconds for which a store that could not say whether it has a shard is not asked again."""

# What reading a file may raise in which anything may stand.
_GARBLED = (OSError, LookupError, TypeError, ValueError, pa.ArrowException)


class DiskCached:
    """A set whose row groups are read from a folder of this node, and put there when it lacks them.

    The folder never holds more than `limit` bytes: what was used longest ago makes room. A row group whose
    shard is no longer in storage is kept, whatever its age, since nothing could bring it back; so is one
    whose store does not say. Any number of processes may share a folder, and any number of sets.

    Args:
        images: The set.
        folder: Where row groups are kept.
        limit: Bytes that the folder may hold.
    """

    def __init__(self, images: ShardSet, folder: str, limit: int) -> None:
        self._images = images
        self._folder = Path(folder)
        self._limit = limit
        self._prefix = images.manifest.fingerprint()[:16]
        self._ask_at: dict[str, float] = {}
        self.manifest: Manifest = images.manifest
        self.group_rows = images.group_rows

    def read_group(self, group: int) -> Rows:
        """Return all rows of one group; a damaged copy is fetched again.

        Raises:
            DataError: the group is neither here nor to be had whole from storage.
        """
        path = self._folder / f"{self._prefix}-{group:08d}{SUFFIX}"
        rows = self._kept(path, group)
        if rows is None:
            rows = self._images.read_group(group)
            self._keep(path, rows, self._images.shard_uri(group))
        return rows

    def read_parts(self, group: int) -> Iterator[tuple[int, Rows]]:
        """Yield all rows of one group, in one part."""
        yield 0, self.read_group(group)

    def _kept(self, path: Path, group: int) -> Rows | None:
        try:
            with pa.memory_map(str(path)) as source:
                rows = table_rows(pa.ipc.open_file(source).read_all())
            self._images.check(group, rows)
        except FileNotFoundError:
            return None
        except (*_GARBLED, DataError):
            with suppress(OSError):
                path.unlink()
            return None
        with suppress(OSError):
            os.utime(path)  # What is used is what is kept.
        return rows

    def _keep(self, path: Path, rows: Rows, origin: str) -> None:
        table = rows_table(rows).replace_schema_metadata({"origin": origin})
        # A disk that is full, read-only or without locks makes training slower, not impossible.
        with suppress(OSError, NotImplementedError):
            self._folder.mkdir(parents=True, exist_ok=True)
            with FileLock(self._folder / "lock"):
                if path.exists() or not self._make_room(table.nbytes + 4096):
                    return
                partial = path.with_suffix(".partial")
                with pa.OSFile(str(partial), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
                    writer.write_table(table)
                partial.replace(path)

    def _make_room(self, size: int) -> bool:
        """Delete what was used longest ago until `size` bytes more fit; tell whether they do."""
        entries = sorted(self._entries())
        held = sum(count for _, count, _ in entries)
        for _, count, entry in entries:
            if held + size <= self._limit:
                break
            if entry.suffix == SUFFIX and not self._may_go(entry):
                continue
            entry.unlink(missing_ok=True)
            held -= count
        return held + size <= self._limit

    def _entries(self) -> Iterator[tuple[float, int, Path]]:
        """Yield when each file was last used, its bytes, and where it is."""
        # What a killed process left half-written counts too, and goes first.
        for path in self._folder.iterdir():
            # Another process deletes what it finds damaged.
            with suppress(FileNotFoundError):
                if path.suffix in (SUFFIX, ".partial"):
                    yield (status := path.stat()).st_mtime, status.st_size, path

    def _may_go(self, entry: Path) -> bool:
        """Tell whether a file is no row group, or one that storage still has."""
        try:
            origin = _origin(entry)
        except _GARBLED:
            return True
        place = storage.bucket_of(origin)
        if time.monotonic() < self._ask_at.get(place, 0.0):
            return False
        try:
            return storage.exists(origin)
        except StorageError:
            self._ask_at[place] = time.monotonic() + ASK_AGAIN_S
            return False


def _origin(path: Path) -> str:
    """Return the URI of the shard that a kept row group came from."""
    with pa.memory_map(str(path)) as source:
        metadata = pa.ipc.open_file(source).schema.metadata
    return str(metadata[b"origin"].decode())
