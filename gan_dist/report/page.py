"""The report of a run or search as one HTML file, with all scripts and pictures in it."""

from __future__ import annotations

import base64
import hashlib
import re
import secrets
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cache
from pathlib import Path
from typing import Any, Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from gan_dist.artifacts.search_folder import is_search
from gan_dist.core import storage
from gan_dist.core.errors import GanDistError
from gan_dist.core.host import own_version
from gan_dist.report.blocks import Chart, Page, Picture, Section, kimg
from gan_dist.report.run import run_page

HERE = Path(__file__).parent

Kind = Literal["run", "search"]


def write_report(uri: str, out: str, optuna_storage: str | None = None) -> tuple[Kind, int]:
    """Write the report of a run or a search, which may be running; its folder stays unchanged and unlocked.

    Args:
        uri: The folder of a run or a search.
        out: The file, a path or a URI.
        optuna_storage: Database of a search's study, if it is in one: a URL, or `env:NAME`.

    Returns:
        What it is a report of, and the size of the file in bytes.

    Raises:
        StorageError: `out` cannot be written; and what `reader` and its page raise.
    """
    kind, read = reader(uri, optuna_storage)
    storage.require_writable(out)
    content = render(read()).encode(errors="backslashreplace")  # names of files may be no text
    storage.write_bytes(out, content)
    return kind, len(content)


def reader(uri: str, optuna_storage: str | None = None) -> tuple[Kind, Callable[[], Page]]:
    """Return what a folder is, and a function that reads its page.

    Raises:
        GanDistError: `optuna_storage` is given for a run.
        CheckpointError: `uri` is neither a run nor a search; the function: its `search.json` is damaged.
        ConfigError: the function: this version cannot read its configuration.
        StorageError: a file of the folder cannot be read.
    """
    if is_search(uri):
        # It imports Optuna and scikit-learn, which takes seconds; a run's page does not need them.
        from gan_dist.report.search import search_page

        return "search", lambda: search_page(uri, optuna_storage)
    if optuna_storage is not None:
        raise GanDistError(
            f"--optuna-storage: {storage.redact(uri)} is a run, which has no study", "leave it out"
        )
    return "run", lambda: run_page(uri)


@dataclass(frozen=True)
class Fragment:
    """A block as HTML."""

    key: str
    """Its name in the page, which it keeps as its content changes."""
    html: str
    hash: str


def fragments(section: Section, source: Callable[[Picture], str]) -> Iterator[Fragment]:
    """Yield the blocks of a section as HTML; `source` has the address of a picture."""
    seen: Counter[str] = Counter()
    for block in section.blocks:
        name = f"{anchor(section)}/{block.kind}/{getattr(block, 'title', '')}"
        seen[name] += 1
        key, half = f"{name}/{seen[name]}", isinstance(block, Chart) and not block.wide
        inner = str(_macros().draw(block, source))
        digest = hashlib.sha256(inner.encode(errors="backslashreplace")).hexdigest()[:12]
        frame = Markup('<div class="{}" data-key="{}" data-hash="{}">{}</div>')
        html = frame.format("half" if half else "block", key, digest, Markup(inner))
        yield Fragment(key, str(html), digest)


def head(page: Page) -> str:
    """Return title, subtitle and table of contents as HTML."""
    return str(_macros().head(page, own_version()))


def shell(section: Section, body: str = "") -> str:
    """Return a section as HTML, with its blocks' HTML in it."""
    return str(_macros().shell(section, Markup(body)))


def anchor(section: Section) -> str:
    """Return the id of a section: its title without numbers, which change."""
    return "-".join(re.findall("[a-z]+", section.title.lower()))


def render(
    page: Page, source: Callable[[Picture], str] = lambda picture: embedded(picture), every: float = 0
) -> str:
    """Return a page as HTML. Its content security policy forbids it to load anything or run other scripts.

    With `every`, it asks its server for changes every so many seconds.
    """
    scripts = [
        (HERE / "chart.js").read_text(),
        (HERE / "page.js").read_text(),
        *([(HERE / "live.js").read_text()] if every else []),
    ]
    styles = (HERE / "page.css").read_text()
    sections = [
        shell(section, "\n".join(one.html for one in fragments(section, source))) for section in page.sections
    ]
    return (
        _environment()
        .get_template("page.html")
        .render(
            page=page,
            head=Markup(head(page)),
            body=Markup("".join(sections)),
            scripts=scripts,
            styles=styles,
            every=every,
            nonce=secrets.token_hex(16),
            now=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        )
    )


def embedded(picture: Picture) -> str:
    """Return a picture as a data URI."""
    return f"data:{media_type(picture.content)};base64,{base64.b64encode(picture.content).decode()}"


def media_type(content: bytes) -> str:
    """Return the type of a picture, which is PNG or WebP."""
    return "image/webp" if content.startswith(b"RIFF") else "image/png"


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"anchor": anchor, "kimg": kimg}
    return environment


@cache
def _macros() -> Any:
    return _environment().get_template("blocks.html").module
