"""From whatever labels images come with to class numbers and their names."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from typing import Any

from gan_dist.core import storage
from gan_dist.core.errors import DataError
from gan_dist.core.storage.redaction import split_query

SHOWN = 3
LONGEST_NUMBER = 100
"""Digits of a label that is sorted as a number; Python refuses to read thousands."""


def number_classes(labels: Iterable[str]) -> dict[str, int]:
    """Return the number of each class: names sorted, or by value where all are whole numbers."""
    names = set(labels)
    numeric = all(name.isdecimal() and len(name) <= LONGEST_NUMBER for name in names)
    return {name: n for n, name in enumerate(sorted(names, key=(lambda n: (int(n), n)) if numeric else None))}


def parse_json(text: str | bytes) -> Any:
    """Return what JSON from a source says.

    Raises:
        ValueError: it is none, or nested so deep that Python cannot read it.
    """
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("nested too deep") from None


def writable(text: str) -> str:
    """Return text that can be written as UTF-8: JSON may name halves of characters, which are spelled out."""
    return text.encode(errors="backslashreplace").decode()


def some(names: Sequence[str]) -> str:
    """Return how many there are and the first few, for a message."""
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")


def counted(number: int, thing: str) -> str:
    """Return a number of things, such as `1 image` or `2,000 images`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def read_labels(uri: str) -> dict[str, str]:
    """Return the label of each path that a CSV or JSON Lines file lists.

    The columns, or keys, are `path`, relative to the source, and `label`; others are passed over.

    Raises:
        DataError: it lacks a column or a value, or gives one path two labels.
        StorageError: it cannot be read.
    """
    text = storage.read_text(uri).removeprefix("\ufeff")
    file = split_query(uri)[0]
    rows = _json_lines(uri, text) if file.endswith((".jsonl", ".ndjson")) else _csv_rows(uri, text)
    labels: dict[str, str] = {}
    for line, path, label in rows:
        if path in (None, "") or label in (None, ""):
            raise DataError(f"{uri}:{line} needs a value for both path and label")
        path, label = writable(str(path)).removeprefix("./"), writable(str(label))
        if labels.setdefault(path, label) != label:
            raise DataError(f"{uri}:{line} gives {path} the label {label}, but it had {labels[path]} before")
    return labels


def _csv_rows(uri: str, text: str) -> Iterable[tuple[int, object, object]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = reader.fieldnames or []
        if not {"path", "label"} <= set(columns):
            raise DataError(
                f"{uri} needs a first line with the columns path,label", f"it has {','.join(columns)}"
            )
        for row in reader:
            yield reader.line_num, row["path"], row["label"]
    except csv.Error as error:
        raise DataError(f"{uri}:{reader.line_num} cannot be read as CSV: {error}") from None


def _json_lines(uri: str, text: str) -> Iterable[tuple[int, object, object]]:
    for number, line in enumerate(text.split("\n"), 1):  # text may hold other ends of lines
        if not line.strip():
            continue
        try:
            row = parse_json(line)
            yield number, row["path"], row["label"]
        except (ValueError, KeyError, TypeError):
            raise DataError(f'{uri}:{number} is not an object like {{"path": ..., "label": ...}}') from None
