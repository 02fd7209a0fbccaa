"""What sources are made of: references to images, and how to read them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from gan_dist.core.errors import DataError
from gan_dist.data.packing.sources.labels import number_classes, some

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
    """What was found to pack.

    `classes` are the names of the labels, None for a set without; `rejected` is what the listing alone could
    tell to be bad; `notes` are sentences that the owner should read; `damaged` one for each file of which an
    unknown number of images is lost.
    """

    origin: Origin
    items: list[Item]
    classes: tuple[str, ...] | None
    rejected: list[Rejection]
    notes: list[str]
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True)
class SourceOptions:
    """How to read a source: a file of labels or none at all, column names, and torchvision's folder."""

    labels: str | None = None
    no_labels: bool = False
    image_column: str | None = None
    label_column: str | None = None
    root: str = "data"
    download: bool = False


class FoundFile(NamedTuple):
    """A file inside a source: its path relative to it, its bytes, and why it is not to be opened, if so."""

    path: str
    size: int
    refused: str | None = None


class Labelled(NamedTuple):
    """An item, and its label as the source writes it."""

    item: Item
    label: str | None


def number_items(found: list[Labelled], *, no_labels: bool) -> tuple[list[Item], tuple[str, ...] | None]:
    """Give items their class numbers; all of them have a label, or none."""
    without = [item.name for item, label in found if label is None]
    if no_labels or len(without) == len(found):
        return [item for item, _ in found], None
    if without:
        raise DataError(
            f"{len(without)} of {len(found)} images have no label: {some(without)}",
            "label them all, or use --no-labels",
        )
    numbers = number_classes(label for _, label in found if label is not None)
    items = [item._replace(label=numbers[label]) for item, label in found if label is not None]
    return items, tuple(numbers)
