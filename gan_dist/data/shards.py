"""The shard format: decoded pixels in Parquet, and a manifest that says what is in which file.

A set is a folder with `manifest.json` and Parquet files. A row is one image: `pixels`, a fixed-size binary of
H*W*C uint8 values in row-major HWC order, and, where the set is labelled, `label`, an int64. Pixels are
neither compressed nor dictionary-encoded, so that reading them is a copy; every page carries a CRC32.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
from pydantic import BaseModel, ConfigDict, ValidationError

from gan_dist import storage
from gan_dist.errors import DataError, StorageError

SCHEMA_VERSION = 1
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

    @staticmethod
    def concatenate(parts: list[Rows]) -> Rows:
        """Join parts of the same set; a single part is returned as it is, without a copy."""
        if len(parts) == 1:
            return parts[0]
        labels = [part.labels for part in parts if part.labels is not None]
        return Rows(
            np.concatenate([part.pixels for part in parts]), np.concatenate(labels) if labels else None
        )


class ShardInfo(BaseModel):
    """One file of a set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: str
    row_groups: tuple[int, ...]
    """Rows in each row group."""
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

    def fingerprint(self) -> str:
        """Return a sha256 that changes whenever the images or their order do."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()


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

    Raises:
        DataError: there is no manifest, or it cannot be understood.
    """

    def __init__(self, uri: str) -> None:
        self.uri = uri
        self.manifest = _read_manifest(uri)
        self._groups = [
            (shard.file, number, rows)
            for shard in self.manifest.shards
            for number, rows in enumerate(shard.row_groups)
        ]

    @property
    def group_rows(self) -> tuple[int, ...]:
        """Rows in each row group over all files, in the manifest's order."""
        return tuple(rows for _, _, rows in self._groups)

    @cached_property
    def _filesystem(self) -> tuple[Any, str]:
        return storage.open_uri(self.uri)

    def __getstate__(self) -> dict[str, Any]:
        # A filesystem holds connections and, for some, loses its retry settings when it is pickled.
        return {key: value for key, value in self.__dict__.items() if key != "_filesystem"}

    def read_group(self, group: int) -> Rows:
        """Return the rows of one row group, after checking its pages' checksums.

        Raises:
            DataError: the file is missing, damaged, or not what the manifest says.
        """
        file, number, expected = self._groups[group]
        filesystem, root = self._filesystem
        where = f"shard {file}, row group {number}, of {self.uri}"
        try:
            with filesystem.open_input_file(f"{root}/{file}") as source:
                reader = pq.ParquetFile(source, page_checksum_verification=True)
                table = reader.read_row_group(number, use_threads=False)
        except (OSError, pa.ArrowException) as error:
            raise DataError(
                f"{where} cannot be read ({error}); restore the file or pack the set again"
            ) from None
        size = self.manifest.height * self.manifest.width * self.manifest.channels
        return _rows(table, expected, size, where)


def _read_manifest(uri: str) -> Manifest:
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


def _rows(table: pa.Table, expected: int, size: int, where: str) -> Rows:
    pixels = table.column("pixels").combine_chunks() if "pixels" in table.column_names else None
    if pixels is None or pixels.type != pa.binary(size) or len(pixels) != expected or pixels.null_count:
        raise DataError(f"{where} does not hold {expected} images of {size} bytes, as the manifest says")
    return table_rows(table)


def table_rows(table: pa.Table) -> Rows:
    """Return a table's images as arrays over its own memory."""
    pixels = table.column("pixels").combine_chunks()
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
        content = encode_shard(rows, group_rows)
        file = f"shard-{number:05d}.parquet"
        storage.write_bytes(storage.join(uri, file), content)
        sizes = tuple(min(group_rows, len(rows) - start) for start in range(0, len(rows), group_rows))
        digest = hashlib.sha256(content).hexdigest()
        infos.append(ShardInfo(file=file, row_groups=sizes, bytes=len(content), sha256=digest))
    count = sum(sum(info.row_groups) for info in infos)
    manifest = Manifest(count=count, shards=tuple(infos), **description)
    text = json.dumps(manifest.model_dump(mode="json"), indent=1) + "\n"
    storage.write_bytes(storage.join(uri, MANIFEST), text.encode())
    return manifest
