"""The README and the pages in docs/: their links lead somewhere, and their commands are ones that exist."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer

from gan_dist.cli import app
from gan_dist.config.fields import leaves, sections
from tests.support.documents import inline_commands, shell_lines

ROOT = Path(__file__).parents[2]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
COMMANDS: dict[str, Any] = getattr(typer.main.get_command(app), "commands")  # noqa: B009  # click's group


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text())
    local = [link for link in links if "://" not in link]
    assert [link for link in local if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_commands_of_a_page_have_verbs_options_and_keys_that_exist(page: Path) -> None:
    """Those of blocks are run in tests/e2e/test_documents.py, those within sentences are not."""
    inline = inline_commands(page) if page.name != "CHANGELOG.md" else ()
    for line in [*filter(re.compile("gan-dist ").match, shell_lines(page)), *inline]:
        verb, *arguments = shlex.split(line)[1:]
        if verb == "submit":
            parsed = COMMANDS[verb].make_context(verb, arguments).params
            verb, arguments = parsed["verb"], list(parsed["arguments"])
        overrides = COMMANDS[verb].make_context(verb, arguments).params.get("overrides") or []
        given = {override.partition("=")[0] for override in overrides} - {"preset"}
        keys = {re.sub(r"(?<=settings)\..*", "", key) for key in given}
        assert keys <= leaves().keys() | sections().keys(), line


def test_the_readme_can_be_read_at_a_sitting() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150
