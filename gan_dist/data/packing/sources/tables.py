"""Parquet files with encoded images, as Hugging Face writes them."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from pyarrow import types

from gan_dist.core import storage
from gan_dist.core.errors import DataError, StorageError
from gan_dist.core.json_text import parse_json
from gan_dist.core.storage import redact
from gan_dist.data.packing.decode import RejectedError
from gan_dist.data.packing.sources.files import SteadyFile
from gan_dist.data.packing.sources.items import (
    UNLABELLED,
    FoundFile,
    Item,
    Labelled,
    Reader,
    Source,
    SourceOptions,
    cut,
    number_items,
    writable,
)

IMAGE_COLUMNS = ("image", "img")
LABEL_COLUMN = "label"
BATCH_ROWS = 32
APART = "pack the files by themselves, or use --no-labels"
READ_BYTES = 8 * 2**20
"""What is read at a time, about: Arrow would hold the column of a whole row group, gigabytes at worst."""


def open_parquet(root: str, files: Sequence[FoundFile], options: SourceOptions) -> Source:
    """Return the rows of Parquet files with a column of encoded images.

    The column is binary, or a struct with a field `bytes`; the label column holds text or whole numbers,
    which Hugging Face's metadata may name.

    Raises:
        DataError: a file is damaged, or which column to use is not clear.
        StorageError: a file cannot be read.
    """
    found: list[Labelled] = []
    columns: dict[str, None] = {}
    named: dict[tuple[str, ...], str] = {}
    for file in files:
        try:
            with SteadyFile(storage.join(root, file.path)) as stream:
                reader = pq.ParquetFile(stream)
                columns[_image_column(file.path, reader.schema_arrow, options)] = None
                labels, names = _read_labels(file.path, reader, options)
                rows = reader.metadata.num_rows
        except (pa.ArrowException, OSError) as error:  # as Arrow reports some damage
            raise DataError(
                f"{file.path} of {redact(root)} cannot be read as Parquet ({cut(error)})"
            ) from None
        if names is not None:
            named.setdefault(names, file.path)
        found += [
            Labelled(Item(f"{file.path}#{row}", file.path, row, 0, UNLABELLED), label)
            for row, label in enumerate(labels or [None] * rows)
        ]
    if len(columns) != 1:
        raise DataError(f"the files have their images in different columns: {cut(', '.join(columns))}")
    if not found:
        raise DataError(f"{redact(root)}: the Parquet files hold no rows")
    items, classes, notes = number_items(found, no_labels=options.no_labels)
    if classes is not None and named:
        if len(named) > 1:
            first, second, *_ = named.values()
            raise DataError(f"{first} and {second} name the classes of {redact(root)} differently", APART)
        (names,) = named
        if unknown := [label for label in classes if not (label.isdecimal() and int(label) < len(names))]:
            what = f"is none of the {len(names)} classes that {named[names]} names"
            raise DataError(f"{redact(root)}: the label {cut(unknown[0])} {what}", APART)
        # The owner's numbering, in which a class without images keeps its number.
        items = [item._replace(label=int(classes[item.label])) for item in items]
        classes = names
    return Source(EncodedColumn(root, next(iter(columns))), items, classes, [], notes)


def _plain(kind: Any) -> Any:
    """Return the type of a column's values: what dictionaries and types of extensions stand for."""
    while types.is_dictionary(kind) or isinstance(kind, pa.BaseExtensionType):
        kind = kind.value_type if types.is_dictionary(kind) else kind.storage_type
    return kind


def _is_encoded(kind: Any) -> bool:
    kind = _plain(kind)
    if types.is_struct(kind):
        return any(part.name == "bytes" and _is_encoded(part.type) for part in kind)
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))


def _is_text(kind: Any) -> bool:
    return bool(types.is_string(kind) or types.is_large_string(kind) or types.is_string_view(kind))


def _image_column(path: str, schema: Any, options: SourceOptions) -> str:
    able = [column.name for column in schema if _is_encoded(column.type)]
    wanted = options.image_column
    if wanted is None:
        likely = [name for name in able if name in IMAGE_COLUMNS] or able
        wanted = likely[0] if len(likely) == 1 else None
    if wanted is None or wanted not in able:
        named = f"{path} has no column {wanted} with encoded images; " if wanted else f"{path}: "
        choices = f"choose --image-column from {cut(', '.join(able))}"
        choice = choices if able else "no column holds encoded images"
        raise DataError(f"{named}{choice} (its columns: {cut(', '.join(schema.names))})")
    return wanted


def _read_labels(
    path: str, reader: Any, options: SourceOptions
) -> tuple[list[str | None] | None, tuple[str, ...] | None]:
    """Return the label of each row, and the classes' names where the file's metadata has them."""
    schema = reader.schema_arrow
    column = options.label_column or LABEL_COLUMN
    if options.no_labels or (options.label_column is None and column not in schema.names):
        return None, None
    if column not in schema.names:
        raise DataError(f"{path} has no column {column}", f"its columns: {cut(', '.join(schema.names))}")
    kind = _plain(schema.field(column).type)
    if not (types.is_integer(kind) or types.is_null(kind) or _is_text(kind)):
        raise DataError(
            f"{path}: the labels in {column} are {cut(kind)}, not text or whole numbers", "use --no-labels"
        )
    try:
        values = reader.read(columns=[column]).column(0).to_pylist()
    except UnicodeDecodeError:
        raise DataError(f"{path}: a label in {column} is not UTF-8 text", "use --no-labels") from None
    if not types.is_integer(kind):
        return values, None
    names = _feature_names(schema, column)
    # Hugging Face writes -1 for labels that are not published.
    labels = [None if value is None or value == -1 else str(value) for value in values]
    if names is not None and any(label and not 0 <= int(label) < len(names) for label in labels):
        raise DataError(f"{path}: a label in {column} is outside its {len(names)} named classes")
    return labels, names


def _feature_names(schema: Any, column: str) -> tuple[str, ...] | None:
    try:
        features = parse_json((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return tuple(writable(str(name)) for name in features[column]["names"])
    except (KeyError, ValueError, TypeError):
        return None


@dataclass(frozen=True)
class EncodedColumn:
    """A column of encoded images in Parquet files below a folder."""

    root: str
    column: str
    readers = 1

    def open(self) -> Reader:
        """Return what reads items; it holds a few rows at a time, however large a row group is."""
        return _ColumnReader(self)


class _ColumnReader:
    def __init__(self, origin: EncodedColumn) -> None:
        self._origin = origin
        self._name, self._group, self._begin = "", -1, 0
        self._file: Any = None
        self._starts: list[int] = []
        self._batches: Iterator[Any] = iter(())
        self._batch: Any = ()

    def __call__(self, item: Item) -> bytes:
        try:
            value = self._row(item.file, item.at or 0)
        except (StorageError, pa.ArrowException, OSError) as error:
            # The rows after this one are looked for anew: how far the reading got is not known.
            self._group = -1
            if isinstance(error, StorageError):
                raise
            raise RejectedError(f"damaged Parquet: {error}") from None
        content = value["bytes"] if isinstance(value, dict) else value
        if content is None:
            raise RejectedError("no bytes in this row")
        return bytes(content)

    def _row(self, name: str, row: int) -> Any:
        if self._name != name:
            stream = SteadyFile(storage.join(self._origin.root, name))
            self._file = pq.ParquetFile(stream, pre_buffer=False, buffer_size=READ_BYTES)
            metadata = self._file.metadata
            sizes = (metadata.row_group(group).num_rows for group in range(metadata.num_row_groups))
            self._starts = [0, *accumulate(sizes)]
            self._name, self._group = name, -1
        group = bisect_right(self._starts, row) - 1
        if group != self._group or row < self._begin:
            self._batches = self._file.iter_batches(
                batch_size=BATCH_ROWS, row_groups=[group], columns=[self._origin.column], use_threads=False
            )
            self._group, self._begin, self._batch = group, self._starts[group], ()
        while row >= self._begin + len(self._batch):
            self._begin += len(self._batch)
            self._batch = next(self._batches)
        return self._batch.column(0)[row - self._begin].as_py()
