"""Parts of sources: references to images, how they are read, and from their labels to numbered classes."""

from __future__ import annotations

import unicodedata
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from gan_dist.core.errors import DataError

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
UNSAFE_NAME = "unsafe name"


class Stored(NamedTuple):
    """How a ZIP holds a member: by which method, of how many bytes, with which CRC-32."""

    method: int
    bytes: int
    crc: int


class Item(NamedTuple):
    """A reference to one image.

    `name` is how the owner knows it; `file` the file to open, relative to the source; `at` the first byte,
    the row or the index inside it, None for the whole file; `size` its bytes there, 0 where not known;
    `label` its class, or `UNLABELLED`; `inside` what else its origin must know: a key, or of a ZIP's member
    how it is stored.
    """

    name: str
    file: str
    at: int | None
    size: int
    label: int
    inside: bytes | Stored | None = None


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
    """How to read a source: a file of labels or none, column names, torchvision's folder, and the split.

    `skip` is the path of a folder inside the source that is no part of it.
    """

    labels: str | None = None
    no_labels: bool = False
    image_column: str | None = None
    label_column: str | None = None
    root: str = "data"
    download: bool = False
    split: str | None = None
    skip: str | None = None


class FoundFile(NamedTuple):
    """A file inside a source: its path relative to it, its bytes, and why it is not to be opened, if so.

    `is_folder` is set for a folder that this user may not read, and which is refused.
    """

    path: str
    size: int
    refused: str | None = None
    is_folder: bool = False


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


def is_unsafe(name: str) -> bool:
    """Return whether an archive's member is named so that its extraction would leave the folder."""
    parts = name.replace("\\", "/").split("/")
    return ".." in parts or (parts[0] == "" and len(parts) > 1) or parts[0].endswith(":")


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
