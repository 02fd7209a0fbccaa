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
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import xxhash
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from gan_dist import storage
from gan_dist.errors import DataError, StorageError

SCHEMA_VERSION = 1
MAX_OPEN = 64
FETCHES = 3
"""Times that a row group is fetched from a store before it counts as damaged there."""
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

    def copy_to(self, out: Rows, at: int, start: int, stop: int) -> None:
        """Write the rows [start, stop) to `out`, from its row `at` on."""
        out.pixels[at : at + stop - start] = self.pixels[start:stop]
        if self.labels is not None and out.labels is not None:
            out.labels[at : at + stop - start] = self.labels[start:stop]

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

    def copy_to(self, out: Rows, at: int, start: int, stop: int) -> None:
        """Write the selected rows [start, stop) to `out`, from its row `at` on."""
        index = self.index[start:stop]
        # With `clip` numpy writes to `out` directly; the indices are known to be in range.
        self.rows.pixels.take(index, axis=0, out=out.pixels[at : at + stop - start], mode="clip")
        if self.rows.labels is not None and out.labels is not None:
            out.labels[at : at + stop - start] = self.rows.labels[index]


class ShardInfo(BaseModel):
    """One file of a set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    row_groups: tuple[PositiveInt, ...]
    """Rows in each row group."""
    checksums: tuple[str, ...]
    """XXH3-128 of each row group's pixels and labels, in hexadecimal."""
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """What a set holds."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    height: PositiveInt
    width: PositiveInt
    channels: PositiveInt
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


class _Version(BaseModel):
    schema_version: int = SCHEMA_VERSION


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
        # What arrives damaged from a store may be whole there.
        for _ in range(FETCHES - 1 if "://" in self.uri else 0):
            with suppress(DataError):
                return self._read(group)
        return self._read(group)

    def _read(self, group: int) -> Rows:
        shard, number, expected = self._groups[group]
        where = f"shard {shard.file}, row group {number}, of {storage.shown(self.uri)}"
        try:
            table = self._files.read(shard, number)
        except (OSError, ValueError, KeyError, IndexError, pa.ArrowException) as error:
            self._files.forget(shard.file)
            raise DataError(
                f"{where} cannot be read ({error}); restore the file or pack the set again"
            ) from None
        size = self.manifest.height * self.manifest.width * self.manifest.channels
        try:
            rows = _rows(table, expected, size, self.manifest.classes is not None, where)
            if self._verify:
                self.check(group, rows)
        except DataError:
            self._files.forget(shard.file)
            raise
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
    """A set's files, whose footers are parsed once."""

    def __init__(self, uri: str) -> None:
        self._uri = uri
        self._filesystem, self._root = storage.open_uri(uri)
        self._mapped = threading.local()
        self._footers: dict[str, pq.FileMetaData] = {}

    def read(self, shard: ShardInfo, number: int) -> pa.Table:
        """Return one row group of a file, unchecked."""
        if self._filesystem.type_name == "local":
            return self._map(shard).read_row_group(number, use_threads=False)
        size = shard.bytes // len(shard.row_groups)
        return storage.retrying(storage.join(self._uri, shard.file), lambda: self._fetch(shard, number), size)

    def _fetch(self, shard: ShardInfo, number: int) -> pa.Table:
        try:
            with self._filesystem.open_input_file(f"{self._root}/{shard.file}") as source:
                reader = pq.ParquetFile(source, metadata=self._footers.get(shard.file), pre_buffer=True)
                self._footers.setdefault(shard.file, reader.metadata)
                return reader.read_row_group(number, use_threads=False)
        except (ValueError, KeyError, IndexError) as error:
            # What arrived is no Parquet: for the caller to judge, not a failure of the store.
            raise DataError(f"row group {number} of {shard.file} cannot be read ({error})") from None

    def _map(self, shard: ShardInfo) -> pq.ParquetFile:
        """Return a local file's reader, in each thread its own, over mapped memory: read with one copy."""
        readers: dict[str, pq.ParquetFile] = self._mapped.__dict__.setdefault("readers", {})
        path = Path(self._root, shard.file)
        # Reading a mapped file that was cut short since it was opened would kill the process.
        if (size := path.stat().st_size) != shard.bytes:
            raise OSError(f"it is {size} bytes long, not {shard.bytes}")
        if shard.file not in readers:
            if len(readers) >= MAX_OPEN:
                readers.pop(next(iter(readers))).close()
            readers[shard.file] = pq.ParquetFile(pa.memory_map(str(path)), pre_buffer=False)
        return readers[shard.file]

    def forget(self, file: str) -> None:
        """Open a file anew at the next reading."""
        self._footers.pop(file, None)
        self._mapped.__dict__.get("readers", {}).pop(file, None)


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
        # Another format may have other fields, so the version comes first.
        version = _Version.model_validate_json(text).schema_version
        if version != SCHEMA_VERSION:
            raise DataError(
                f"{uri} was packed with format {version}, this version reads {SCHEMA_VERSION}; "
                "pack the set again"
            )
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = "".join(f"{part}: " for part in first["loc"])
        raise DataError(f"{uri}/{MANIFEST} is not a manifest of shards: {field}{first['msg']}") from None
    for shard in manifest.shards:
        if len(shard.checksums) != len(shard.row_groups):
            raise DataError(
                f"{uri}/{MANIFEST} lists {len(shard.row_groups)} row groups but {len(shard.checksums)} "
                f"checksums for shard {shard.file}"
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
