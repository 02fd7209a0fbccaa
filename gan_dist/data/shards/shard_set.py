"""The shard format: decoded pixels in Parquet, and a manifest that says what is in which file.

A set is a folder with `manifest.json` and Parquet files. A row is one image: `pixels`, a fixed-size binary of
H*W*C uint8 values in row-major HWC order, and, where the set is labelled, `label`, an int64. Pixels are
neither compressed nor dictionary-encoded, and a row group's are one page, so that reading them is a copy;
every page carries a CRC32.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow.parquet as pq
import xxhash

from gan_dist.core import storage
from gan_dist.core.errors import AbsentError, DamagedDataError
from gan_dist.core.storage.redaction import reason
from gan_dist.data.shards.manifest import (
    MANIFEST,
    Manifest,
    ShardInfo,
    read_manifest,
    to_json,
    unknown_label,
)
from gan_dist.data.shards.parquet_layout import Footer, read_footer
from gan_dist.data.shards.row_group import (
    LABEL_BYTES,
    LocalFile,
    MemoryFile,
    RowGroupExtent,
    ShardFile,
    StoreFile,
    UnreadableError,
    listed_extent,
)
from gan_dist.data.shards.rows import Rows, checksum, rows_table

FETCHES = 3
"""Times that a row group is fetched from a store before it counts as damaged there."""
LARGEST_PAGE = 2**30
"""Bytes of a page; Parquet's own limit is twice that."""


class ShardSet:
    """A set of shards at a path or URI; with `verify` the checksum of every row group read is checked.

    Raises:
        DamagedDataError: there is no manifest, or it cannot be understood.
    """

    def __init__(self, uri: str, *, verify: bool = True) -> None:
        self.uri = uri
        self.manifest = read_manifest(uri)
        self.group_rows = tuple(rows for shard in self.manifest.shards for rows in shard.row_groups)
        """Rows in each row group over all files, in the manifest's order."""
        self._verify = verify
        self._groups = [
            (shard, number) for shard in self.manifest.shards for number in range(len(shard.row_groups))
        ]
        self._footers: dict[str, Footer] = {}

    @cached_property
    def _folder(self) -> tuple[Any, str]:
        return storage.open_uri(self.uri)

    def __getstate__(self) -> dict[str, Any]:
        # Connections are each process's own; how stores are reached travels with the set.
        state = {key: value for key, value in self.__dict__.items() if key != "_folder"}
        return {**state, "_footers": {}, "_options": storage.options()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        storage.configure(state.pop("_options"))
        self.__dict__.update(state)

    def read_group(self, group: int) -> Rows:
        parts = self.read_parts(group)
        # Memory is allocated when the first part has been read, so for no more rows than the file can hold.
        first, part = next(parts)
        rows = self.manifest.empty(self.group_rows[group])
        rows.put(slice(first, first + len(part)), part)
        for first, part in parts:
            rows.put(slice(first, first + len(part)), part)
        return rows

    def read_parts(self, group: int) -> Iterator[tuple[int, Rows]]:
        shard, number = self._groups[group]
        listed = listed_extent(self.manifest, shard, number)
        # What arrives damaged from a store may be whole there. The last try looks where the file itself says
        # that the row group is, and so finds out what is wrong.
        early = FETCHES - 1 if self._folder[0].type_name != "local" else int(listed is not None)
        for _ in range(early):
            try:
                yield from self._read(group, listed)
            except DamagedDataError:
                continue
            return
        yield from self._read(group, None)

    def _read(self, group: int, extent: RowGroupExtent | None) -> Iterator[tuple[int, Rows]]:
        """Yield the parts of a row group from its place, or from where its file says that it is."""
        shard, _ = self._groups[group]
        state = xxhash.xxh3_128() if self._verify else None
        check_labels = partial(self._require_known, group) if self._verify else None
        try:
            with self._open(shard) as file:
                yield from (extent or self._locate(group, file)).read(file, state, check_labels)
        except (AbsentError, UnreadableError, OSError, ValueError) as error:
            self._footers.pop(shard.file, None)
            raise self._error(group, f" cannot be read ({reason(error)})") from None
        if state:
            self._compare(group, state.hexdigest())

    def _open(self, shard: ShardInfo) -> ShardFile:
        filesystem, folder = self._folder
        path = f"{folder}/{shard.file}"
        if filesystem.type_name != "local":
            return StoreFile(filesystem, path, storage.join(self.uri, shard.file), shard.bytes)
        return LocalFile(path, shard.bytes)

    def _locate(self, group: int, file: ShardFile) -> RowGroupExtent:
        """Return where a file says that a row group is."""
        shard, number = self._groups[group]
        footer = self._footers.get(shard.file) or read_footer(file)
        self._footers[shard.file] = footer
        if number >= len(footer.groups):
            raise UnreadableError(f"the file has {len(footer.groups)} row groups")
        size, rows = self.manifest.image_bytes, self.group_rows[group]
        columns, kind = {"pixels": size}, "images"
        if self.manifest.classes is not None:
            columns, kind = {**columns, "label": LABEL_BYTES}, "labelled images"
        if footer.columns != columns or footer.groups[number].rows != rows:
            raise self._error(group, f" does not hold {rows} {kind} of {size} bytes, as the manifest says")
        return footer.extent(file, number)

    def _error(self, group: int, what: str) -> DamagedDataError:
        shard, number = self._groups[group]
        where = f"shard {shard.file}, row group {number}, of {storage.redact(self.uri)}"
        remedy = "restore the file or pack the set again, or go on without it: data.verify=quarantine"
        return DamagedDataError(f"{where}{what}", remedy, keys=("data.path", "data.verify"))

    def check(self, group: int, rows: Rows) -> None:
        """Compare rows with the manifest's checksum of a row group, and their labels with its classes.

        Raises:
            DamagedDataError: they are not what was packed.
        """
        self._compare(group, checksum(rows))
        self._require_known(group, rows.labels)

    def _require_known(self, group: int, labels: npt.NDArray[np.int64] | None) -> None:
        if unknown := unknown_label(labels, self.manifest):
            raise self._error(group, f": {unknown}")

    def _compare(self, group: int, digest: str) -> None:
        shard, number = self._groups[group]
        if digest != shard.checksums[number]:
            raise self._error(group, " is damaged: its checksum is not the manifest's")

    def shard_uri(self, group: int) -> str:
        """Return the URI of the file that holds a row group."""
        return storage.join(self.uri, self._groups[group][0].file)


def encode_shard(rows: Rows, group_rows: int) -> bytes:
    """Return one Parquet file of the images, in row groups of `group_rows`."""
    sink = io.BytesIO()
    pq.write_table(
        rows_table(rows),
        sink,
        row_group_size=group_rows,
        compression="none",
        use_dictionary=False,
        write_statistics=False,
        write_page_checksum=True,
        # A column of a row group is one page: its values lie in one piece.
        data_page_size=LARGEST_PAGE,
        max_rows_per_page=group_rows,
    )
    return sink.getvalue()


def write_shard(uri: str, file: str, rows: Rows, group_rows: int) -> ShardInfo:
    """Write one file of a set, and return what the manifest says of it."""
    content = encode_shard(rows, group_rows)
    storage.write_bytes(storage.join(uri, file), content)
    starts = range(0, len(rows), group_rows)
    written = MemoryFile(content)
    footer = read_footer(written)
    extents = [footer.extent(written, number) for number in range(len(starts))]
    return ShardInfo(
        file=file,
        row_groups=tuple(min(group_rows, len(rows) - start) for start in starts),
        checksums=tuple(checksum(rows[start : start + group_rows]) for start in starts),
        pixels_at=tuple(extent.pixels[0].offset for extent in extents),
        labels_at=tuple(extent.labels[0].offset for extent in extents if extent.labels),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def write_set(uri: str, shards: Iterator[Rows], *, group_rows: int, **description: Any) -> Manifest:
    """Write shards, each from its images, and, last, a manifest with a `description`: its other fields."""
    infos = [
        write_shard(uri, f"shard-{number:05d}.parquet", rows, group_rows)
        for number, rows in enumerate(shards)
    ]
    count = sum(sum(info.row_groups) for info in infos)
    manifest = Manifest(count=count, shards=tuple(infos), **description)
    storage.write_bytes(storage.join(uri, MANIFEST), to_json(manifest))
    return manifest
