"""Blocks of a page. `page.html` renders a block by its `kind` and escapes all text in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, TypeAlias


@dataclass(frozen=True)
class Note:
    """A paragraph."""

    kind: ClassVar = "note"
    text: str


@dataclass(frozen=True)
class Headline:
    """The values that matter most, large; each has a name, and words about it."""

    kind: ClassVar = "headline"
    rows: Sequence[tuple[str, str, str]]
    """Names, values, and words below the value."""
    share: float | None = None
    """What is done of the whole, 0 to 1, as a bar."""


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
    """A chart that `chart.js` draws."""

    kind: ClassVar = "chart"
    title: str
    unit: str
    """Unit of the values; empty if an axis has it."""
    figure: str
    """Series and axes as JSON without the character `<`, so that it cannot end the script element."""
    wide: bool = False
    height: int = 240


@dataclass(frozen=True)
class Bars:
    """A horizontal bar for each name, of 0 to 1."""

    kind: ClassVar = "bars"
    title: str
    values: Mapping[str, float]


@dataclass(frozen=True)
class Picture:
    """A PNG or WebP picture in the page."""

    content: bytes
    caption: str
    at: float = 0
    """Images seen."""


@dataclass(frozen=True)
class Slider:
    """Pictures of which one is shown at a time, the last one first, beside one to compare with."""

    kind: ClassVar = "slider"
    pictures: Sequence[Picture]
    beside: Picture | None


@dataclass(frozen=True)
class Pictures:
    """Pictures side by side."""

    kind: ClassVar = "pictures"
    pictures: Sequence[Picture]


@dataclass(frozen=True)
class Commands:
    """Purposes, each with its command."""

    kind: ClassVar = "commands"
    rows: Sequence[tuple[str, str]]


Block: TypeAlias = Note | Headline | Facts | Table | Chart | Bars | Slider | Pictures | Commands


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
    ended: bool = False
    """Whether nothing more will be recorded."""


def number(value: float) -> str:
    """Return a number with six significant digits."""
    return f"{value:.6g}"


def kimg(images: float) -> str:
    """Return a number of images in kimg, with the unit."""
    return f"{images / 1000:,.10g} kimg"
