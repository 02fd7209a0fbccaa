"""The report of a run or search as one HTML file, with plotly.js and all pictures in it."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from plotly.offline import get_plotlyjs

from gan_dist.artifacts.search_folder import is_search
from gan_dist.core import storage
from gan_dist.core.errors import GanDistError
from gan_dist.core.host import own_version
from gan_dist.report.blocks import Page
from gan_dist.report.run import run_page

TEMPLATE = "page.html"


def write_report(
    uri: str, out: str, optuna_storage: str | None = None
) -> tuple[Literal["run", "search"], int]:
    """Write the report of a run or a search, which may be running; its folder stays unchanged and unlocked.

    Args:
        uri: The folder of a run or a search.
        out: The file, a path or a URI.
        optuna_storage: Database of a search's study, if it is in one: a URL, or `env:NAME`.

    Returns:
        What it is a report of, and the size of the file in bytes.

    Raises:
        GanDistError: `optuna_storage` is given for a run.
        CheckpointError: `uri` is neither a run nor a search, or a search whose `search.json` is damaged.
        ConfigError: this version cannot read its configuration.
        StorageError: a file of the folder cannot be read, or `out` cannot be written.
    """
    of_search = is_search(uri)
    storage.require_writable(out)
    if of_search:
        # It imports Optuna and scikit-learn, which takes seconds; a run's page does not need them.
        from gan_dist.report.search import search_page

        page = search_page(uri, optuna_storage)
    elif optuna_storage is not None:
        raise GanDistError(
            f"--optuna-storage: {storage.redact(uri)} is a run, which has no study", "leave it out"
        )
    else:
        page = run_page(uri)
    content = render(page).encode(errors="backslashreplace")  # names of files may be no text
    storage.write_bytes(out, content)
    return "search" if of_search else "run", len(content)


def render(page: Page) -> str:
    """Return a page as HTML. Its content security policy forbids it to load anything or run other scripts."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(TEMPLATE).render(
        page=page,
        plotly=get_plotlyjs(),
        nonce=secrets.token_hex(16),
        version=own_version(),
        now=f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
    )
