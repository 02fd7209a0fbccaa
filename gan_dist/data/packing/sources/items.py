"""Parts of sources: references to images, how they are read, and from their labels to numbered classes."""

from __future__ import annotations

import csv
import io
import json
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from gan_dist.core import storage
from gan_dist.core.errors import DataError
from gan_dist.core.storage.redaction import split_query

SHOWN = 3
QUOTED = 200
"""Characters of a user's file that a message quotes; a file that is not what it should be is one line."""
LONGEST_NUMBER = 100
"""Digits of a label that is sorted as a number; Python refuses to read thousands."""

# The last row cannot be decoded. It is here so that the quarantine names such files, which would otherwise be
# skipped in silence.
IMAGE_SUFFIXES = frozenset(
    (
        *(".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".apng", ".webp"),
        *(".bmp", ".dib", ".gif", ".tif", ".tiff"),
        *(".ppm", ".pgm", ".pbm", ".pnm"),
        *(".avif", ".heic", ".heif", ".jp2", ".jxl", ".tga", ".psd"),
    )
)
TAR_SUFFIX, ZIP_SUFFIX, TABLE_SUFFIX = ".tar", ".zip", ".parquet"
LMDB_SUFFIXES = frozenset((".mdb", ".lmdb"))
CONTAINER_SUFFIXES = frozenset((TAR_SUFFIX, ZIP_SUFFIX, TABLE_SUFFIX, *LMDB_SUFFIXES))
"""Files that hold many images each."""
UNLABELLED = -1


class Item(NamedTuple):
    """A reference to one image.

    `name` is how the owner knows it; `file` the file to open, relative to the source; `at` the first byte,
    the row or the index inside it, None for the whole file; `size` its bytes, 0 where not known; `label` its
    class, or `UNLABELLED`.
    """

    name: str
    file: str
    at: int | None
    size: int
    label: int


class Rejection(NamedTuple):
    """An image, or part of a source, that is left out, and why."""

    path: str
    reason: str

    def __str__(self) -> str:
        return f"{self.path}: {self.reason}"


Reader = Callable[[Item], bytes]
"""Returns an item's image file, or raises: `RejectedError`, or `StorageError` where another try may help."""


class Origin(Protocol):
    """Opens a source's files, in any process; can be pickled and hashed."""

    def __hash__(self) -> int: ...

    @property
    def readers(self) -> int:
        """How many threads should read items at a time."""

    def open(self) -> Reader:
        """Return what reads items; fastest when they come in order."""


@dataclass(frozen=True)
class Source:
    """Images to pack.

    `classes` are the names of the labels, None for a set without; `rejected` are images that listing found to
    be unusable; `notes` are sentences that the owner should read; `damaged` has a sentence for each file
    that has lost an unknown number of images.
    """

    origin: Origin
    items: list[Item]
    classes: tuple[str, ...] | None
    rejected: list[Rejection]
    notes: list[str]
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceOptions:
    """How to read a source: a file of labels or none, column names, torchvision's folder, and the split."""

    labels: str | None = None
    no_labels: bool = False
    image_column: str | None = None
    label_column: str | None = None
    root: str = "data"
    download: bool = False
    split: str | None = None


class FoundFile(NamedTuple):
    """A file inside a source: its path relative to it, its bytes, and why it is not to be opened, if so."""

    path: str
    size: int
    refused: str | None = None


class Labelled(NamedTuple):
    """An item, and its label as the source writes it."""

    item: Item
    label: str | None


def number_items(
    found: list[Labelled], *, no_labels: bool
) -> tuple[list[Item], tuple[str, ...] | None, list[str]]:
    """Return items with class numbers, the classes, and notes; all of the items have a label, or none."""
    without = [item.name for item, label in found if label is None]
    if no_labels or len(without) == len(found):
        return [item for item, _ in found], None, []
    if without:
        raise DataError(
            f"{len(without)} of {len(found)} images have no label: {some(without)}",
            "label them all, or use --no-labels",
        )
    labels = [label or "" for _, label in found]
    spellings: dict[str, list[str]] = defaultdict(list)
    for label in set(labels):
        spellings[visible(label)].append(label)
    name_of = {
        label: name if len(group) > 1 else label for name, group in spellings.items() for label in group
    }
    numbers = number_classes(name_of.values())
    items = [item._replace(label=numbers[name_of[labels[n]]]) for n, (item, _) in enumerate(found)]
    merged = sorted(name for name, group in spellings.items() if len(group) > 1)
    notes = [f"classes whose names look the same are one: {some(merged)}"] if merged else []
    return items, tuple(numbers), notes


def number_classes(labels: Iterable[str]) -> dict[str, int]:
    """Return the number of each class: names sorted, or by value where all are whole numbers."""
    names = set(labels)
    numeric = all(name.isdecimal() and len(name) <= LONGEST_NUMBER for name in names)
    return {name: n for n, name in enumerate(sorted(names, key=(lambda n: (int(n), n)) if numeric else None))}


def visible(text: str) -> str:
    """Return what a reader sees of a name: one Unicode form, no invisible characters, single spaces."""
    if not text.isascii():
        composed = unicodedata.normalize("NFC", text)
        text = "".join(char for char in composed if unicodedata.category(char) != "Cf")
    return " ".join(text.split())


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
    more = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    return ", ".join(map(cut, names[:SHOWN])) + more


def cut(text: object) -> str:
    """Return the beginning of text from a user's file, for a message."""
    whole = str(text)
    return whole if len(whole) <= QUOTED else f"{whole[:QUOTED]}... ({len(whole):,} characters)"


def counted(number: int, thing: str) -> str:
    """Return a number of things, such as `1 image` or `2,000 images`."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def read_labels(uri: str) -> dict[str, str]:
    """Return the label of each path that a CSV or JSON Lines file, or StyleGAN's dataset.json, lists.

    The columns, or keys, are `path`, relative to the source, and `label`; others are passed over.

    Raises:
        DataError: it lacks a column or a value, or gives one path two labels.
        StorageError: it cannot be read.
    """
    text = storage.read_text(uri).removeprefix("\ufeff")
    file = split_query(uri)[0]
    if file.endswith(".json"):
        rows: Iterable[tuple[int, object, object]] | None = stylegan_labels(text)
    else:
        rows = _json_lines(uri, text) if file.endswith((".jsonl", ".ndjson")) else _csv_rows(uri, text)
    if not rows:
        remedy = "give a CSV or JSON Lines file with path and label, or use --no-labels"
        raise DataError(f'{uri} holds no list such as {{"labels": [["00000/a.png", 6]]}}', remedy)
    labels: dict[str, str] = {}
    for line, path, label in rows:
        if not all(isinstance(value, str | int | float) and visible(str(value)) for value in (path, label)):
            raise DataError(f"{uri}:{line} needs a value for both path and label, text or a number")
        path, label = writable(str(path)).removeprefix("./"), writable(str(label))
        if visible(labels.setdefault(path, label)) != visible(label):
            given, before = cut(label), cut(labels[path])
            raise DataError(f"{uri}:{line} gives {cut(path)} the label {given}, but it had {before} before")
    return labels


def stylegan_labels(text: str) -> list[tuple[int, object, object]] | None:
    """Return entry, path and label of each image in StyleGAN's dataset.json, or None for another file."""
    try:
        return [(n, path, label) for n, (path, label) in enumerate(parse_json(text)["labels"] or [], 1)]
    except (ValueError, KeyError, TypeError):
        return None


def _csv_rows(uri: str, text: str) -> Iterable[tuple[int, object, object]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        reader.fieldnames = columns = [visible(column) for column in reader.fieldnames or []]
        if not {"path", "label"} <= set(columns):
            has = cut(",".join(columns))
            raise DataError(f"{uri} needs a first line with the columns path,label", f"it has {has}")
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
