"""The shard format: decoded pixels in Parquet, and a manifest that says what is in which file.

A set is a folder with `manifest.json` and Parquet files. A row is one image: `pixels`, a fixed-size binary of
H*W*C uint8 values in row-major HWC order, and, where the set is labelled, `label`, an int64. Pixels are
neither compressed nor dictionary-encoded, and a row group's are one page, so that reading them is a copy;
every page carries a CRC32.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from contextlib import suppress
from functools import cached_property, partial
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from gan_dist.core import storage
from gan_dist.core.errors import AbsentError, DataError
from gan_dist.core.storage.redaction import reason
from gan_dist.data.shards import row_group
from gan_dist.data.shards.files import ShardFiles
from gan_dist.data.shards.manifest import MANIFEST, Manifest, ShardInfo, read_manifest, unknown_label
from gan_dist.data.shards.row_group import RowGroupExtent
from gan_dist.data.shards.rows import Rows, checksum, row_columns, rows_table, table_rows

FETCHES = 3
"""Times that a row group is fetched from a store before it counts as damaged there."""
_REMEDY = "restore the file or pack the set again, or go on without it: data.verify=quarantine"


class ShardSet:
    """A set of shards at a path or URI.

    Args:
        uri: The set's folder.
        verify: Check the checksum of every row group that is read.

    Raises:
        DataError: there is no manifest, or it cannot be understood.
    """

    def __init__(self, uri: str, *, verify: bool = True) -> None:
        self.uri = uri
        self.manifest = read_manifest(uri)
        self._verify = verify
        self._groups = [
            (shard, number, rows)
            for shard in self.manifest.shards
            for number, rows in enumerate(shard.row_groups)
        ]

    @property
    def group_rows(self) -> tuple[int, ...]:
        """Rows in each row group over all files, in the manifest's order."""
        return tuple(rows for _, _, rows in self._groups)

    @cached_property
    def _files(self) -> ShardFiles:
        return ShardFiles(self.uri)

    def __getstate__(self) -> dict[str, Any]:
        # Open files and connections are each process's own; how stores are reached travels with the set.
        state = {key: value for key, value in self.__dict__.items() if key != "_files"}
        return {**state, "_options": storage.options()}

    def __setstate__(self, state: dict[str, Any]) -> None:
        storage.configure(state.pop("_options"))
        self.__dict__.update(state)

    def read_group(self, group: int) -> Rows:
        """Return the rows of one row group.

        Raises:
            DataError: the file is missing, damaged, or not what the manifest says.
            StorageError: the store cannot be reached.
        """
        place = self._place(group)
        if not self._files.local:
            return self._fetch(group, place)
        if place is None:
            return self._read(group)
        rows = Rows.empty(place.rows, place.size, labelled=place.labels is not None)
        for first, part in self.read_parts(group):
            rows.put(slice(first, first + len(part)), part)
        return rows

    def read_parts(self, group: int) -> Iterator[tuple[int, Rows]]:
        """Yield the rows of one row group as they are read: a part's first row, and the part.

        A part is valid until the next is asked for. Rows may come again; none is to be used before the end.

        Raises:
            DataError: the file is missing, damaged, or not what the manifest says.
            StorageError: the store cannot be reached.
        """
        place = self._place(group)
        if not self._files.local or place is None:
            yield 0, self.read_group(group)
            return
        try:
            yield from self._read_plain(group, place)
        except DataError:
            yield 0, self._read(group)  # which tells what is wrong

    def _fetch(self, group: int, place: RowGroupExtent | None) -> Rows:
        """Return a row group from a store."""
        # What arrives damaged from there may be whole there. The last reading tells what is wrong.
        with suppress(AbsentError):
            for _ in range(FETCHES - 1):
                with suppress(DataError):
                    return self._read(group) if place is None else self._fetch_plain(group, place)
        return self._read(group)

    def _place(self, group: int) -> RowGroupExtent | None:
        """Return where the manifest says that a row group's values are, if it does and they can be there."""
        shard, number, count = self._groups[group]
        labelled = self.manifest.classes is not None
        for places in (shard.pixels_at, *([shard.labels_at] if labelled else [])):
            if len(places) != len(shard.row_groups):
                return None
        labels = shard.labels_at[number] if labelled else None
        place = RowGroupExtent(count, self.manifest.image_bytes, shard.pixels_at[number], labels)
        return place if place.is_within(shard.bytes) else None

    def _read_plain(self, group: int, place: RowGroupExtent) -> Iterator[tuple[int, Rows]]:
        """Yield the parts of a row group from its place in a local file."""
        shard, _, _ = self._groups[group]
        state = xxhash.xxh3_128() if self._verify else None
        look = partial(self._require_known, group) if self._verify else None
        try:
            yield from place.read(self._files.path(shard), state, look)
        except (OSError, ValueError) as error:
            raise DataError(str(error)) from None
        if state:
            self._compare(group, state.hexdigest())

    def _fetch_plain(self, group: int, place: RowGroupExtent) -> Rows:
        """Return a row group from its place in a store."""
        rows = self._files.fetch_plain(self._groups[group][0], place)
        if self._verify:
            self.check(group, rows)
        return rows

    def _read(self, group: int) -> Rows:
        """Return a row group as Parquet's reader sees it."""
        shard, number, expected = self._groups[group]
        try:
            table = self._files.read(shard, number)
        except (AbsentError, DataError, OSError, ValueError, LookupError, pa.ArrowException) as error:
            self._files.forget(shard.file)
            raise DataError(f"{self._where(group)} cannot be read ({reason(error)})", f"{_REMEDY}") from None
        try:
            rows = _rows(table, expected, self.manifest, self._where(group))
            if self._verify:
                self.check(group, rows)
        except DataError:
            self._files.forget(shard.file)
            raise
        return rows

    def _where(self, group: int) -> str:
        shard, number, _ = self._groups[group]
        return f"shard {shard.file}, row group {number}, of {storage.redact(self.uri)}"

    def check(self, group: int, rows: Rows) -> None:
        """Compare rows with the manifest's checksum of a row group, and their labels with its classes.

        Raises:
            DataError: they are not what was packed.
        """
        self._compare(group, checksum(rows))
        self._require_known(group, rows.labels)

    def _require_known(self, group: int, labels: npt.NDArray[np.int64] | None) -> None:
        if unknown := unknown_label(labels, self.manifest):
            raise DataError(f"{self._where(group)}: {unknown}", f"{_REMEDY}")

    def _compare(self, group: int, digest: str) -> None:
        shard, number, _ = self._groups[group]
        if digest != shard.checksums[number]:
            where = self._where(group)
            raise DataError(f"{where} is damaged: its checksum is not the manifest's", f"{_REMEDY}")

    def shard_uri(self, group: int) -> str:
        """Return the URI of the file that holds a row group."""
        return storage.join(self.uri, self._groups[group][0].file)


def _rows(table: pa.Table, expected: int, manifest: Manifest, where: str) -> Rows:
    size, labelled = manifest.image_bytes, manifest.classes is not None
    wanted, found = row_columns(size, labelled=labelled), {field.name: field.type for field in table.schema}
    if found != wanted or len(table) != expected or any(column.null_count for column in table.columns):
        kind = "labelled images" if labelled else "images"
        what = f"{expected} {kind} of {size} bytes"
        raise DataError(f"{where} does not hold {what}, as the manifest says", f"{_REMEDY}")
    return table_rows(table)


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
        **row_group.single_pages(group_rows, rows.pixels.shape[1]),
    )
    return sink.getvalue()


def write_shard(uri: str, file: str, rows: Rows, group_rows: int) -> ShardInfo:
    """Write one file of a set, and return what the manifest says of it."""
    content = encode_shard(rows, group_rows)
    storage.write_bytes(storage.join(uri, file), content)
    starts = range(0, len(rows), group_rows)
    size = rows.pixels.shape[1]
    footer = pq.read_metadata(pa.BufferReader(content)) if row_group.single_pages(group_rows, size) else None
    return ShardInfo(
        file=file,
        row_groups=tuple(min(group_rows, len(rows) - start) for start in starts),
        checksums=tuple(checksum(rows[start : start + group_rows]) for start in starts),
        pixels_at=row_group.offsets(footer, 0, size) if footer else (),
        labels_at=row_group.offsets(footer, 1, 8) if footer and rows.labels is not None else (),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def write_set(uri: str, shards: Iterator[Rows], *, group_rows: int, **description: Any) -> Manifest:
    """Write shards and, last, their manifest.

    Args:
        uri: The folder to write to.
        shards: The images of one file after another.
        group_rows: Rows in a row group.
        **description: The other fields of `Manifest`.
    """
    infos = []
    for number, rows in enumerate(shards):
        infos.append(write_shard(uri, f"shard-{number:05d}.parquet", rows, group_rows))
    count = sum(sum(info.row_groups) for info in infos)
    manifest = Manifest(count=count, shards=tuple(infos), **description)
    text = json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n"
    storage.write_bytes(storage.join(uri, MANIFEST), text.encode())
    return manifest
