"""Lists of labels: CSV, JSON Lines, Hugging Face's metadata files, and StyleGAN's dataset.json."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from gan_dist.core.errors import DataError
from gan_dist.core.json_text import parse_json
from gan_dist.core.storage.redaction import split_query
from gan_dist.data.packing.sources.items import cut, visible, writable

LABEL_COLUMN = "label"
STYLEGAN_LABELS = "dataset.json"
METADATA = ("metadata.csv", "metadata.jsonl", "metadata.parquet")
"""Names of the files in which Hugging Face's ImageFolder looks for what is known of images."""
LISTS = (STYLEGAN_LABELS, *METADATA)
METADATA_PATH = "file_name"
PATHS = ("path", METADATA_PATH)
"""Columns of paths, by preference."""

Rows = list[tuple[int, dict[str, Any]]]
"""Line or number of each row, and its wanted values."""


def read_labels(uri: str, content: bytes, column: str) -> dict[str, str]:
    """Return the label of each path that a list of the owner's gives.

    The list is a CSV, JSON Lines or Parquet file with the columns `path` or `file_name`, and `column`, or
    StyleGAN's dataset.json. Other columns are passed over.

    Raises:
        DataError: it lacks a column or a value, gives one path two labels, or cannot be read.
    """
    if _plain_name(uri).endswith(".json"):
        labels = stylegan_labels(uri, content)
        if not labels:
            remedy = "give a CSV or JSON Lines file with path and label, or use --no-labels"
            raise DataError(f'{uri} holds no list such as {{"labels": [["00000/a.png", 6]]}}', remedy)
        return labels
    columns, rows = _read_rows(uri, content, (*PATHS, column))
    path_column = next((name for name in PATHS if name in columns), None)
    if path_column is None or column not in columns:
        has = cut(",".join(columns))
        raise DataError(f"{uri} needs the columns path,{column}", f"it has {has}")
    return _labels(uri, ((line, row.get(path_column), row.get(column)) for line, row in rows))


def metadata_labels(uri: str, content: bytes, column: str) -> tuple[dict[str, str] | None, Sequence[str]]:
    """Return the label of each file that a metadata file names, and the file's columns.

    None, where it is no metadata file of images: it names no files; an empty dict, where it has no labels.

    Raises:
        DataError: it lacks a value, gives one file two labels, or cannot be read.
    """
    columns, rows = _read_rows(uri, content, (METADATA_PATH, column))
    if METADATA_PATH not in columns:
        return None, columns
    if all(row.get(column) is None for _, row in rows):
        return {}, columns
    return _labels(uri, ((line, row.get(METADATA_PATH), row.get(column)) for line, row in rows)), columns


def stylegan_labels(uri: str, content: bytes) -> dict[str, str] | None:
    """Return the label of each image in StyleGAN's dataset.json, or None for another file."""
    try:
        listed = parse_json(content)["labels"] or []
        rows = [(n, path, label) for n, (path, label) in enumerate(listed, 1)]
    except (ValueError, KeyError, TypeError):
        return None
    return _labels(uri, rows)


def _labels(uri: str, rows: Iterable[tuple[int, object, object]]) -> dict[str, str]:
    labels: dict[str, str] = {}
    for line, path, label in rows:
        if not all(isinstance(value, str | int | float) and visible(str(value)) for value in (path, label)):
            raise DataError(f"{uri}:{line} needs a value for both path and label, text or a number")
        path, label = writable(str(path)).removeprefix("./"), writable(str(label))
        if visible(labels.setdefault(path, label)) != visible(label):
            given, before = cut(label), cut(labels[path])
            raise DataError(f"{uri}:{line} gives {cut(path)} the label {given}, but it had {before} before")
    return labels


def _read_rows(uri: str, content: bytes, wanted: Sequence[str]) -> tuple[Sequence[str], Rows]:
    name = _plain_name(uri)
    if name.endswith(".parquet"):
        return _parquet_rows(uri, content, wanted)
    try:
        text = content.decode().removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise DataError(f"{uri} is not UTF-8 text (byte {error.start})") from None
    read: Callable[..., tuple[Sequence[str], Rows]] = (
        _json_rows if name.endswith((".jsonl", ".ndjson")) else _csv_rows
    )
    return read(uri, text, wanted)


def _csv_rows(uri: str, text: str, wanted: Sequence[str]) -> tuple[Sequence[str], Rows]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        reader.fieldnames = columns = [visible(column) for column in reader.fieldnames or []]
        used = [name for name in wanted if name in columns]
        # An empty cell is a missing value.
        return columns, [(reader.line_num, {name: row[name] or None for name in used}) for row in reader]
    except csv.Error as error:
        raise DataError(f"{uri}:{reader.line_num} cannot be read as CSV: {error}") from None


def _json_rows(uri: str, text: str, wanted: Sequence[str]) -> tuple[Sequence[str], Rows]:
    rows: Rows = []
    columns: dict[str, None] = {}
    for number, line in enumerate(text.split("\n"), 1):  # text may hold other ends of lines
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            columns |= dict.fromkeys(row.keys())
        except (ValueError, AttributeError):
            raise DataError(f'{uri}:{number} is not an object like {{"path": ..., "label": ...}}') from None
        rows.append((number, {name: row[name] for name in wanted if name in row}))
    return list(columns), rows


def _parquet_rows(uri: str, content: bytes, wanted: Sequence[str]) -> tuple[Sequence[str], Rows]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        columns = pq.read_schema(io.BytesIO(content)).names
        used = [name for name in wanted if name in columns]
        rows = pq.read_table(io.BytesIO(content), columns=used).to_pylist()
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{uri} cannot be read as Parquet ({cut(error)})") from None
    return columns, list(enumerate(rows, 1))


def _plain_name(uri: str) -> str:
    return split_query(uri)[0].lower()
