"""Blocks of a page. `page.html` renders a block by its `kind` and escapes all text in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    kind: ClassVar = "note"
    text: str


@dataclass(frozen=True)
class Facts:
    """Names, each with its value."""

    kind: ClassVar = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """A table with a header."""

    kind: ClassVar = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: int | None = None
    """Number of the row to highlight."""


@dataclass(frozen=True)
class Chart:
    """A plotly figure."""

    kind: ClassVar = "chart"
    title: str
    unit: str
    """Unit of the values; empty if an axis has it."""
    figure: str
    """Data and layout as JSON without the character `<`, so that it cannot end the script element."""
    wide: bool = False
    height: int = 260


@dataclass(frozen=True)
class Picture:
    """A PNG in the page."""

    source: str
    """A data URI."""
    caption: str


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side."""

    kind: ClassVar = "pictures"
    pictures: Sequence[Picture]
    large: bool = False


@dataclass(frozen=True)
class Commands:
    """Purposes, each with its command."""

    kind: ClassVar = "commands"
    rows: Sequence[tuple[str, str]]


Block: TypeAlias = Note | Facts | Table | Chart | Pictures | Commands


@dataclass(frozen=True)
class Section:
    """Blocks under a title; a folded section opens by a click on its title."""

    title: str
    blocks: Sequence[Block]
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """A report."""

    title: str
    subtitle: str
    sections: Sequence[Section]


def number(value: float) -> str:
    """Return a number with six significant digits."""
    return f"{value:.6g}"


def kimg(images: float) -> str:
    """Return a number of images in kimg, with the unit."""
    return f"{images / 1000:,.10g} kimg"
