"""The commands of docs/sources.md, on sources of the kinds that it names."""

from __future__ import annotations

import json
import re
import shlex
import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import gan_dist
from gan_dist import cli
from gan_dist.core import storage
from tests.unit.data.packing.test_containers import put_in_lmdb
from tests.unit.data.packing.test_sources import picture, put, tar

PAGE = Path(gan_dist.__file__).parent.parent / "docs" / "sources.md"
COMMANDS = re.findall(r"^gan-dist (pack .*)$", PAGE.read_text(), re.MULTILINE)
EXPECTED = {
    "shards/photos": (2, 2),
    "s3://bucket/shards": (1, None),
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


@pytest.fixture
def sources(tmp_path: Path, bucket: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """A folder with what the page packs, in which the commands run; return the bucket."""
    monkeypatch.chdir(tmp_path)
    put(tmp_path / "photos", "cat/a.png", "dog/b.png")
    (tmp_path / "labels.csv").write_text("path,label\ncat/a.png,x\ndog/b.png,x\n")
    put(tmp_path / "imagefolder", "train/a.png", "test/b.png")
    for split, name in (("train", "a"), ("test", "b")):
        (tmp_path / "imagefolder" / split / "metadata.csv").write_text(
            f"file_name,label\n{name}.png,{name}\n"
        )
    with zipfile.ZipFile(tmp_path / "faces.zip", "w") as archive:
        for name in ("cat/a.png", "dog/b.png"):
            archive.writestr(name, picture(1))
    tar(tmp_path / "tars" / "a.tar", ("a.png", picture(1)), ("a.cls", b"1"))
    (tmp_path / "clone" / "data").mkdir(parents=True)
    for split, hues in (("train", ["red", "blue"]), ("test", ["red"])):
        columns = {"image": [picture(1)] * len(hues), "hue": hues, "label": ["x"] * len(hues)}
        pq.write_table(pa.table(columns), tmp_path / "clone" / "data" / f"{split}-00000-of-00001.parquet")
    put_in_lmdb(tmp_path / "bedroom_train_lmdb", [(b"k", picture(1))])
    storage.write_bytes(f"{bucket}/photos/a.png", picture(1))
    storage.write_bytes(f"{bucket}/faces.zip", (tmp_path / "faces.zip").read_bytes())
    return bucket


def test_the_commands_of_the_page_list_what_it_says(sources: str, capsys: pytest.CaptureFixture[str]) -> None:
    found = {}
    for command in COMMANDS:
        arguments = [word.replace("s3://bucket", sources) for word in shlex.split(command)]
        cli.app([*arguments, "--dry-run", "--json"], standalone_mode=False)
        shown = json.loads(capsys.readouterr().out.splitlines()[-1])
        found[shlex.split(command)[2]] = shown["images"], shown["classes"]
    assert found == EXPECTED
