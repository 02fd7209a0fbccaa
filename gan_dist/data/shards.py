"""The shard format: decoded pixels in Parquet, and a manifest that says what is in which file.

A set is a folder with `manifest.json` and Parquet files. A row is one image: `pixels`, a fixed-size binary of
H*W*C uint8 values in row-major HWC order, and, where the set is labelled, `label`, an int64. Pixels are
neither compressed nor dictionary-encoded, so that reading them is a copy; every page carries a CRC32.
"""

from __future__ import annotations

import hashlib
import io
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from pydantic import BaseModel, ConfigDict, ValidationError

from gan_dist import storage
from gan_dist.errors import DataError, StorageError

SCHEMA_VERSION = 1
MAX_OPEN = 64
MANIFEST = "manifest.json"

Pixels = npt.NDArray[np.uint8]
Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Rows:
    """Some images of a set: `pixels` uint8 (n, H*W*C), `labels` int64 (n,) or None."""

    pixels: Pixels
    labels: Labels | None

    def __len__(self) -> int:
        return len(self.pixels)

    def __getitem__(self, index: slice | npt.NDArray[np.intp]) -> Rows:
        return Rows(self.pixels[index], None if self.labels is None else self.labels[index])

    def copy_to(self, out: Rows, start: int, stop: int) -> None:
        """Write the rows [start, stop) over all of `out`."""
        out.pixels[:] = self.pixels[start:stop]
        if self.labels is not None and out.labels is not None:
            out.labels[:] = self.labels[start:stop]

    @staticmethod
    def empty(count: int, size: int, *, labelled: bool) -> Rows:
        """Return rows whose values are still to be written."""
        labels = np.empty(count, dtype=np.int64) if labelled else None
        return Rows(np.empty((count, size), dtype=np.uint8), labels)

    @staticmethod
    def concatenate(parts: list[Rows]) -> Rows:
        """Join parts of the same set; a single part is returned as it is, without a copy."""
        if len(parts) == 1:
            return parts[0]
        labels = [part.labels for part in parts if part.labels is not None]
        return Rows(
            np.concatenate([part.pixels for part in parts]), np.concatenate(labels) if labels else None
        )


@dataclass(frozen=True)
class Selection:
    """Some of `rows`, in the order of `index`; copied only when asked for."""

    rows: Rows
    index: npt.NDArray[np.intp]

    def copy_to(self, out: Rows, start: int, stop: int) -> None:
        """Write the selected rows [start, stop) over all of `out`."""
        index = self.index[start:stop]
        # With `clip` numpy writes to `out` directly; the indices are known to be in range.
        np.take(self.rows.pixels, index, axis=0, out=out.pixels, mode="clip")
        if self.rows.labels is not None and out.labels is not None:
            np.take(self.rows.labels, index, out=out.labels, mode="clip")


class ShardInfo(BaseModel):
    """One file of a set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    row_groups: tuple[int, ...]
    """Rows in each row group."""
    checksums: tuple[str, ...]
    """XXH3-128 of each row group's pixels and labels, in hexadecimal."""
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a set holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    height: int
    width: int
    channels: int
    count: int
    classes: tuple[str, ...] | None = None
    """Names of the classes, indexed by label; None where the set is not labelled."""
    shards: tuple[ShardInfo, ...]
    source: str = ""
    license: str = ""
    attribution: str = ""
    packer_version: str = ""
    settings: dict[str, str] = {}
    """How the images were made: the filter, the decoder's version, counts of what was left out."""

    def fingerprint(self) -> str:
        """Return a sha256 that changes whenever the images or their order do."""
        described = self.model_dump_json(exclude={"packer_version", "settings"})
        return hashlib.sha256(described.encode()).hexdigest()


class ImageSet(Protocol):
    """Images in numbered groups of rows; a group is what is read at once. Must be picklable."""

    manifest: Manifest

    @property
    def group_rows(self) -> tuple[int, ...]:
        """Rows in each group, in order."""

    def read_group(self, group: int) -> Rows:
        """Return all rows of one group."""


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
    def _files(self) -> _Files:
        return _Files(self.uri)

    def __getstate__(self) -> dict[str, Any]:
        # Open files and connections are each process's own.
        return {key: value for key, value in self.__dict__.items() if key != "_files"}

    def read_group(self, group: int) -> Rows:
        """Return the rows of one row group.

        Raises:
            DataError: the file is missing, damaged, or not what the manifest says.
        """
        shard, number, expected = self._groups[group]
        where = f"shard {shard.file}, row group {number}, of {self.uri}"
        try:
            table = self._files.open(shard.file).read_row_group(number, use_threads=False)
        except (OSError, ValueError, KeyError, IndexError, pa.ArrowException) as error:
            self._files.forget(shard.file)
            raise DataError(
                f"{where} cannot be read ({error}); restore the file or pack the set again"
            ) from None
        size = self.manifest.height * self.manifest.width * self.manifest.channels
        rows = _rows(table, expected, size, self.manifest.classes is not None, where)
        if self._verify:
            self.check(group, rows)
        return rows

    def check(self, group: int, rows: Rows) -> None:
        """Compare rows with the manifest's checksum of a row group.

        Raises:
            DataError: they are not what was packed.
        """
        shard, number, _ = self._groups[group]
        if checksum(rows) != shard.checksums[number]:
            raise DataError(
                f"shard {shard.file}, row group {number}, of {self.uri} is damaged: its checksum is not the "
                "manifest's; restore the file, or go on without it: data.verify=quarantine"
            )

    def shard_uri(self, group: int) -> str:
        """Return the URI of the file that holds a row group."""
        return storage.join(self.uri, self._groups[group][0].file)


class _Files:
    """A set's open files, in each thread its own, so that a footer is parsed once."""

    def __init__(self, uri: str) -> None:
        self._filesystem, self._root = storage.open_uri(uri)
        self._threads = threading.local()

    def open(self, file: str) -> pq.ParquetFile:
        readers: dict[str, pq.ParquetFile] = self._threads.__dict__.setdefault("readers", {})
        if file not in readers:
            path = f"{self._root}/{file}"
            local = self._filesystem.type_name == "local"
            # A mapped file is copied once, from the page cache to where it is wanted.
            source = pa.memory_map(path) if local else self._filesystem.open_input_file(path)
            if len(readers) >= MAX_OPEN:
                readers.pop(next(iter(readers))).close()
            readers[file] = pq.ParquetFile(source, pre_buffer=False)
        return readers[file]

    def forget(self, file: str) -> None:
        self._threads.__dict__.get("readers", {}).pop(file, None)


def read_manifest(uri: str) -> Manifest:
    """Return what the set at a path or URI holds.

    Raises:
        DataError: there is no manifest, or it cannot be understood.
    """
    try:
        text = storage.read_text(storage.join(uri, MANIFEST))
    except StorageError as error:
        raise DataError(f"data.path={uri} holds no image set: {error}") from None
    try:
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        raise DataError(f"{uri}/{MANIFEST} is not a manifest of shards: {error.errors()[0]['msg']}") from None
    if manifest.schema_version != SCHEMA_VERSION:
        raise DataError(
            f"{uri} was packed with format {manifest.schema_version}, this version reads {SCHEMA_VERSION}; "
            "pack the set again"
        )
    listed = sum(sum(shard.row_groups) for shard in manifest.shards)
    if listed != manifest.count or manifest.count == 0:
        raise DataError(f"{uri}/{MANIFEST} says {manifest.count} images, but its shards list {listed}")
    return manifest


def _rows(table: pa.Table, expected: int, size: int, labelled: bool, where: str) -> Rows:
    schema = {"pixels": pa.binary(size), **({"label": pa.int64()} if labelled else {})}
    found = {field.name: field.type for field in table.schema}
    if found != schema or len(table) != expected or any(column.null_count for column in table.columns):
        kind = "labelled images" if labelled else "images"
        raise DataError(f"{where} does not hold {expected} {kind} of {size} bytes, as the manifest says")
    return table_rows(table)


def table_rows(table: pa.Table) -> Rows:
    """Return a table's images as arrays over its own memory."""
    column = table.column("pixels")
    # Combining copies, even where there is nothing to combine.
    pixels = column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    size = pixels.type.byte_width
    flat = np.frombuffer(pixels.buffers()[1], dtype=np.uint8)
    values = flat[pixels.offset * size : (pixels.offset + len(pixels)) * size].reshape(len(pixels), size)
    labels = table.column("label").to_numpy() if "label" in table.column_names else None
    return Rows(values, labels)


def rows_table(rows: Rows) -> pa.Table:
    """Return images as a table over their own memory; the inverse of `table_rows`."""
    count, size = rows.pixels.shape
    buffer = pa.py_buffer(np.ascontiguousarray(rows.pixels))
    columns = {"pixels": pa.FixedSizeBinaryArray.from_buffers(pa.binary(size), count, [None, buffer])}
    if rows.labels is not None:
        columns["label"] = pa.array(rows.labels)
    return pa.table(columns)


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
    )
    return sink.getvalue()


def write_shard(uri: str, file: str, rows: Rows, group_rows: int) -> ShardInfo:
    """Write one file of a set, and return what the manifest says of it."""
    content = encode_shard(rows, group_rows)
    storage.write_bytes(storage.join(uri, file), content)
    sizes = tuple(min(group_rows, len(rows) - start) for start in range(0, len(rows), group_rows))
    starts = range(0, len(rows), group_rows)
    return ShardInfo(
        file=file,
        row_groups=sizes,
        checksums=tuple(checksum(rows[start : start + group_rows]) for start in starts),
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )


def checksum(rows: Rows) -> str:
    """Return the XXH3-128 of rows' pixels and labels; a CRC32 would cost more than the reading."""
    state = xxhash.xxh3_128(np.ascontiguousarray(rows.pixels).data)
    if rows.labels is not None:
        state.update(np.ascontiguousarray(rows.labels).data)
    return state.hexdigest()


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
