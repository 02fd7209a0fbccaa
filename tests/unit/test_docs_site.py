"""The documentation's site: pages made from the code, and links from pages outside docs/."""

from __future__ import annotations

import re
from types import SimpleNamespace

import pytest

from gan_dist.config.fields import leaves
from gan_dist.core import errors
from tools import docs_site
from tools.docs_site import ROOT

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, Exception)]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_kind_of_error_has_an_entry(kind: type) -> None:
    page = (ROOT / "docs/troubleshooting.md").read_text()
    assert re.search(rf"^## {kind.__name__}$", page, re.MULTILINE)


def test_messages_come_from_the_code() -> None:
    found = docs_site.messages()
    assert (
        "the working directory does not exist any more",
        "cd to one that does",
        "cli/__init__.py",
    ) in found["GanDistError"]
    assert any("is being worked on by" in what for what, _, _ in found["BusyError"])


def test_every_key_and_command_has_a_row() -> None:
    keys, commands = docs_site.configuration_page(), docs_site.commands_page()
    assert [key for key in leaves() if f"| `{key}` |" not in keys] == []
    assert "`--truncation`" in commands
    assert "## train" in commands


@pytest.mark.parametrize(
    ("page", "site", "link", "expected"),
    [
        ("README.md", "index.md", "[a](docs/start.md#x)", "[a](start.md#x)"),
        ("README.md", "index.md", "[a](docs/decisions/)", "[a](decisions/README.md)"),
        ("docs/auto.md", "auto.md", "[a](../benchmarks/README.md)", "[a](benchmarks/README.md)"),
        ("docs/decisions/0001-x.md", "decisions/0001-x.md", "[a](../audit.md)", "[a](../audit.md)"),
        ("docs/cluster.md", "cluster.md", "[a](../jobs/cluster/grafana.json)", "a"),
        ("docs/auto.md", "auto.md", "[a](#b) [c](https://d.org)", "[a](#b) [c](https://d.org)"),
    ],
)
def test_links_lead_to_the_sites_pages(page: str, site: str, link: str, expected: str) -> None:
    file = SimpleNamespace(abs_src_path=str(ROOT / page), src_uri=site)
    assert docs_site.on_page_markdown(link, SimpleNamespace(file=file)) == expected
