"""What a page is made of. `page.html` draws a block by its `kind`, and escapes all text in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias


@dataclass(frozen=True)
class Note:
    """A sentence or two."""

    kind: ClassVar = "note"
    text: str


@dataclass(frozen=True)
class Facts:
    """Names and what is to be said of each."""

    kind: ClassVar = "facts"
    rows: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Table:
    """Rows under a head."""

    kind: ClassVar = "table"
    head: Sequence[str]
    rows: Sequence[Sequence[str]]
    marked: int | None = None
    """The row that stands out."""


@dataclass(frozen=True)
class Chart:
    """A figure of plotly's."""

    kind: ClassVar = "chart"
    title: str
    unit: str
    """Of the values, if that is not said by an axis."""
    figure: str
    """Its data and layout as JSON in which no `<` stands, so that it cannot end the script it is kept in."""
    wide: bool = False
    height: int = 260


@dataclass(frozen=True)
class Picture:
    """A PNG within the page."""

    source: str
    """A data URI."""
    caption: str


@dataclass(frozen=True)
class Pictures:
    """Pictures one beside the other."""

    kind: ClassVar = "pictures"
    pictures: Sequence[Picture]
    large: bool = False


@dataclass(frozen=True)
class Commands:
    """What to type, and what for."""

    kind: ClassVar = "commands"
    rows: Sequence[tuple[str, str]]


Block: TypeAlias = Note | Facts | Table | Chart | Pictures | Commands


@dataclass(frozen=True)
class Section:
    """Blocks under a title; one that is folded shows when its title is clicked."""

    title: str
    blocks: Sequence[Block]
    folded: bool = False


@dataclass(frozen=True)
class Page:
    """All of a page."""

    title: str
    subtitle: str
    sections: Sequence[Section]


def number(value: float) -> str:
    """Return a figure as it stands in text."""
    return f"{value:.6g}"


def kimg(images: float) -> str:
    """Return images in thousands, with the unit."""
    return f"{images / 1000:,.10g} kimg"
