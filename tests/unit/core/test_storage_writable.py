"""A file that cannot be written is told before what it is to hold is made, and the trial leaves nothing."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gan_dist.cli import app
from gan_dist.core import storage
from gan_dist.core.errors import GanDistError, StorageError
from tests.support.s3 import refusing_server

OUT = {"export": ("--to", "pt2"), "report": ("--out", "html"), "sample": ("--out", "png")}


def everything(folder: Path) -> dict[str, bytes | None]:
    return {str(one): one.read_bytes() if one.is_file() else None for one in folder.rglob("*")}


def test_a_trial_leaves_nothing(tmp_path: Path, bucket: str) -> None:
    there = tmp_path / "there.png"
    there.write_bytes(b"an earlier one")
    before = everything(tmp_path)
    for path in (there, tmp_path / "new.png", tmp_path / "some" / "folder" / "new.png"):
        storage.require_writable(str(path))
        storage.require_writable(f"file://{path}")
    assert everything(tmp_path) == before
    storage.write_bytes(f"{bucket}/a/there.png", b"an earlier one")
    for name in ("a/there.png", "new.png", "some/folder/new.png"):
        storage.require_writable(f"{bucket}/{name}")
    assert storage.list_names(bucket) == ["a"]
    assert storage.list_names(f"{bucket}/a") == ["there.png"]
    assert storage.read_bytes(f"{bucket}/a/there.png") == b"an earlier one"


@pytest.mark.parametrize(
    ("place", "told"),
    [
        ("folder.pt2", r"folder\.pt2 is a folder, where there should be a file"),
        ("file/a.pt2", r"file/a\.pt2 is a file, or in one, where there should be a folder"),
        ("file/more/a.pt2", r"file/more/a\.pt2 is a file, or in one, where there should be a folder"),
    ],
)
def test_what_is_in_the_way_is_told(place: str, told: str, tmp_path: Path) -> None:
    (tmp_path / "folder.pt2").mkdir()
    (tmp_path / "file").touch()
    before = everything(tmp_path)
    with pytest.raises(StorageError, match=told):
        storage.require_writable(str(tmp_path / place))
    assert everything(tmp_path) == before


@pytest.fixture
def closed(tmp_path: Path) -> Iterator[Path]:
    """A folder that this process may not write; root, who may everywhere, is nobody for a while."""
    tmp_path.chmod(0o555)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    yield tmp_path
    os.seteuid(user)
    tmp_path.chmod(0o755)


def test_a_folder_that_is_closed_to_us_is_told(closed: Path) -> None:
    with pytest.raises(StorageError, match=r"cannot be used: .*Permission denied"):
        storage.require_writable(str(closed / "a.pt2"))


@pytest.mark.parametrize("backend", ["pyarrow", "s3fs"])
def test_a_store_that_refuses_is_told(backend: str, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    storage.configure(storage.StorageOptions(backend))  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="the bucket does not exist; create it, or correct its name"):
        storage.require_writable("s3://nowhere-to-be-found/a.pt2")
    with pytest.raises(StorageError, match=r"is a bucket, where there should be a file in one$"):
        storage.require_writable("s3://generator.pt2")
    with refusing_server("AccessDenied") as (url, requests):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        with pytest.raises(StorageError, match="the store refuses access; give these credentials the right"):
            storage.require_writable(f"{bucket}/a.pt2")
    assert len(requests) <= 6


@pytest.mark.usefixtures("bucket")
@pytest.mark.parametrize("verb", OUT)
def test_a_verb_looks_at_where_it_writes_before_it_works(verb: str, tmp_path: Path) -> None:
    """The run is damaged, which would be told if it had been worked with."""
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").write_text("damaged: [")
    option, ending = OUT[verb]
    to = tmp_path / f"folder.{ending}"
    to.mkdir()
    before = everything(tmp_path)
    message = f"{re.escape(str(to))} is a folder" if verb != "sample" else "is a folder; add --single"
    with pytest.raises(GanDistError, match=message):
        CliRunner().invoke(app, [verb, str(run), option, str(to)], catch_exceptions=False)
    with pytest.raises(StorageError, match="the bucket does not exist; create it, or correct its name"):
        CliRunner().invoke(
            app, [verb, str(run), option, f"s3://nowhere-to-be-found/a.{ending}"], catch_exceptions=False
        )
    assert everything(tmp_path) == before
