"""A set's files, on a disk or in a store, and row groups as they are read there."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from gan_dist.core import storage
from gan_dist.core.errors import DataError
from gan_dist.data.shards.manifest import ShardInfo
from gan_dist.data.shards.row_group import RowGroupExtent
from gan_dist.data.shards.rows import Rows


class ShardFiles:
    """A set's files; the footers of those in a store are parsed once."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._filesystem, self._root = storage.open_uri(uri)
        self.local = self._filesystem.type_name == "local"
        self._footers: dict[str, pq.FileMetaData] = {}

    def read(self, shard: ShardInfo, number: int) -> pa.Table:
        """Return one row group of a file, unchecked.

        Raises:
            AbsentError: a store has no such file.
            DataError: what a store has is no such row group.
            StorageError: the store cannot be reached.
        """
        if self.local:
            with pq.ParquetFile(self.path(shard)) as reader:
                return reader.read_row_group(number, use_threads=False)
        size = shard.bytes // len(shard.row_groups)
        return storage.retrying(storage.join(self._uri, shard.file), lambda: self._fetch(shard, number), size)

    def fetch_plain(self, shard: ShardInfo, place: RowGroupExtent) -> Rows:
        """Return one row group of a file in a store, unchecked.

        Raises:
            AbsentError: the store has no such file.
            DataError: the file is not as long as the manifest says.
            StorageError: the store cannot be reached.
        """
        uri, size = storage.join(self._uri, shard.file), place.end - place.pixels
        return storage.retrying(uri, lambda: self._fetch_plain(shard, place), size)

    def path(self, shard: ShardInfo) -> Path:
        """Return where a local file is.

        Raises:
            OSError: there is none.
            DataError: it is not of the size that the manifest says.
        """
        path = Path(self._root, shard.file)
        _check_size(shard, path.stat().st_size)
        return path

    def _open(self, shard: ShardInfo) -> Any:
        """Return a store's file, opened."""
        source = self._filesystem.open_input_file(f"{self._root}/{shard.file}")
        _check_size(shard, source.size())
        return source

    def _fetch(self, shard: ShardInfo, number: int) -> pa.Table:
        with self._open(shard) as source:
            watched = _Watched(source)
            try:
                reader = pq.ParquetFile(
                    pa.PythonFile(watched, mode="r"), metadata=self._footers.get(shard.file), pre_buffer=True
                )
                self._footers.setdefault(shard.file, reader.metadata)
                return reader.read_row_group(number, use_threads=False)
            except (OSError, ValueError, LookupError) as error:
                if watched.failed:
                    raise
                # What arrived is no Parquet: for the caller to judge, not a failure of the store.
                raise DataError(str(error)) from None

    def _fetch_plain(self, shard: ShardInfo, place: RowGroupExtent) -> Rows:
        with self._open(shard) as source:
            source.seek(place.pixels)
            content = source.read_buffer(place.end - place.pixels)
        try:
            return place.within(content)
        except ValueError as error:
            raise DataError(f"it ends inside the row group: {error}") from None

    def forget(self, file: str) -> None:
        """Parse a file's footer anew at the next reading."""
        self._footers.pop(file, None)


class _Watched:
    """A store's file that knows whether its store failed: Arrow says OSError of damaged content too.

    Args:
        source: The file, opened.
    """

    def __init__(self, source: Any) -> None:
        self.failed = False
        self.seek, self.tell, self.close = source.seek, source.tell, source.close
        self._source = source

    @property
    def closed(self) -> bool:
        return bool(self._source.closed)

    def read(self, size: int) -> bytes:
        try:
            content: bytes = self._source.read(size)
        except Exception:
            self.failed = True
            raise
        self.failed |= len(content) < size
        return content


def _check_size(shard: ShardInfo, size: int) -> None:
    if size != shard.bytes:
        raise DataError(f"it is {size} bytes long, not {shard.bytes}")
