"""Row groups kept on a node's own disk: a set in object storage is fetched once, not once an epoch."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pyarrow as pa
from filelock import FileLock

from gan_dist import storage
from gan_dist.data.manifest import Manifest
from gan_dist.data.rows import Rows, rows_table, table_rows
from gan_dist.data.shards import ShardSet
from gan_dist.errors import DataError

SUFFIX = ".arrow"


class DiskCached:
    """A set whose row groups are read from a folder of this node, and put there when it lacks them.

    The folder never holds more than `limit` bytes: what was used longest ago makes room. A row group whose
    shard is no longer in storage is kept, whatever its age, since nothing could bring it back. Any number of
    processes may share a folder, and any number of sets.

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
            os.utime(path)  # What is used is what is kept.
        except FileNotFoundError:
            return None
        except (OSError, KeyError, ValueError, pa.ArrowException, DataError):
            path.unlink(missing_ok=True)
            return None
        return rows

    def _keep(self, path: Path, rows: Rows, origin: str) -> None:
        table = rows_table(rows).replace_schema_metadata({"origin": origin})
        # A full or read-only disk makes training slower, not impossible.
        with suppress(OSError):
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
        entries = sorted(self._entries(), key=lambda entry: entry.stat().st_mtime)
        held = sum(entry.stat().st_size for entry in entries)
        for entry in entries:
            if held + size <= self._limit:
                break
            if entry.suffix == SUFFIX and not storage.exists(_origin(entry)):
                continue
            held -= entry.stat().st_size
            entry.unlink()
        return held + size <= self._limit

    def _entries(self) -> Iterator[Path]:
        # What a killed process left half-written counts too, and goes first.
        return (path for path in self._folder.iterdir() if path.suffix in (SUFFIX, ".partial"))


def _origin(path: Path) -> str:
    """Return the URI of the shard that a kept row group came from."""
    with pa.memory_map(str(path)) as source:
        metadata = pa.ipc.open_file(source).schema.metadata
    return str(metadata[b"origin"].decode())
