"""The commands of docs/sources.md, on sources of the kinds that it names."""

from __future__ import annotations

import json
import os
import re
import shlex
from pathlib import Path

import pytest

import gan_dist
from gan_dist import cli
from tests.support.documents import write_sources

PAGE = Path(gan_dist.__file__).parent.parent / "docs" / "sources.md"
COMMANDS = re.findall(r"^gan-dist (pack .*)$", PAGE.read_text(), re.MULTILINE)
EXPECTED = {
    "shards/photos": (2, 2),
    "s3://bucket/shards": (64, None),
    "shards/faces": (2, 2),
    "shards/faces-of-bucket": (2, 2),
    "shards/tars": (1, None),
    "shards/clone": (1, 1),
    "shards/hues": (2, 2),
    "shards/bedroom": (1, None),
    "shards/listed": (2, 1),
    "shards/imagefolder": (1, 1),
    "shards/wide": (2, 2),
    "shards/cutouts": (2, 2),
}
"""Images and classes at each destination."""


def test_the_commands_of_the_page_list_what_it_says(
    tmp_path: Path, bucket: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_sources(tmp_path, tmp_path / "home", os.environ["AWS_ENDPOINT_URL"], bucket[5:])
    found = {}
    for command in COMMANDS:
        arguments = [word.replace("s3://bucket", bucket) for word in shlex.split(command)]
        cli.app([*arguments, "--dry-run", "--json"], standalone_mode=False)
        shown = json.loads(capsys.readouterr().out.splitlines()[-1])
        found[shlex.split(command)[2]] = shown["images"], shown["classes"]
    assert found == EXPECTED
