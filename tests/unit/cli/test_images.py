"""`train IMAGES` before anything is started: what counts as images, what a dry run says, what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gan_dist import cli
from gan_dist.cluster import connect
from gan_dist.data.builtin import DIGITS
from tests.support.packing import save_photos

FEW = ("train.batch_size=2", "eval.extractor=random")


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory and home; no cluster can be reached from it."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", str(tmp_path))

    def refuse() -> None:
        pytest.fail("a cluster was wanted")

    monkeypatch.setattr(connect, "connect", refuse)
    return tmp_path


@pytest.fixture
def photos(here: Path) -> Path:
    return save_photos(here / "photos", 12)


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    out, err = capsys.readouterr()
    assert "Traceback" not in err
    return int(str(ended.value.code)), out, err


def plan(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code, out, err = run(capsys, *arguments, "--dry-run", "--json")
    assert code == 0, err
    record: dict[str, Any] = json.loads(out.splitlines()[-1])
    return record


def refusal(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code, _, err = run(capsys, *arguments)
    assert code == 2
    return err


def test_a_dry_run_of_images_says_what_would_be_packed_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], photos: Path
) -> None:
    record = plan(capsys, "train", "~/photos")
    assert record["source"] == str(photos)
    assert record["packed_set"].startswith(f"{photos.parent}/runs/.packed/photos-")
    assert record["packed_set"].endswith(", not there yet")
    assert (record["to_pack"], record["classes"]) == ("12 at 16x16x3, 9216 bytes", 2)
    assert (record["run"], record["images"]) == (
        f"{photos.parent}/runs/photos",
        "12 of 16x16x3, read at 16x16",
    )
    assert list(photos.parent.iterdir()) == [photos]
    other = plan(capsys, "train", "photos/", "name=mine", "data.resolution=8", "preset=cifar10", *FEW)
    assert other["to_pack"] == "12 at 8x8x3, 2304 bytes"
    assert other["run"].endswith("/runs/mine")
    search = "search={space: {optim.g.lr: {log: [1e-5, 1e-3]}}}"
    assert plan(capsys, "tune", "photos", search)["to_pack"] == record["to_pack"]


def test_presets_and_yaml_files_are_no_images(
    capsys: pytest.CaptureFixture[str], here: Path, photos: Path
) -> None:
    photos.rename(here / "digits")
    code, out, err = run(capsys, "train", "digits", "--dry-run")
    assert (code, err) == (0, "note: digits is the preset; the folder is ./digits\n")
    assert "path: builtin://digits" in out
    assert plan(capsys, "train", "./digits")["source"] == str(here / "digits")
    Path("settings").write_text("data: {path: builtin://shapes}")
    assert "source" not in plan(capsys, "train", "settings")
    shutil.copytree(DIGITS, "set")
    for images in ("set", "builtin://digits"):
        assert plan(capsys, "train", images)["images"] == "1797 of 8x8x1, read at 8x8"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digts"], "there is no preset or file of this name; the presets are"),
        (["digts"], "images are a folder, an archive or a URI; the nearest is digits"),
        (["photos", "optim.lr=1"], "optim.lr"),
        (["photos", "preset=cifar"], "the nearest is cifar10"),
        (
            ["photos", "data.path=builtin://digits"],
            "data.path is the packed set that is made from the images",
        ),
        (["photos", "train.batch_size=64", "scale.workers=3"], "must divide by scale.workers=3"),
        (["photos", "data.resolution=12"], "12"),
        (["photos", "storage=photos"], "is the folder of the images; keep runs in another one: storage=..."),
        (["photos", "storage=."], "is in the folder of the run"),
        (["empty"], "holds no images"),
        (["texts"], "its 1 files are named otherwise (.txt 1)"),
        (["broken"], "none of 2 images"),
        (["listed"], "lists 1 image that the source does not hold: gone.png"),
        (["missing.zip"], "images are a folder, an archive or a URI"),
        (["s3://no-such-bucket-of-anyone/photos"], "s3://no-such-bucket-of-anyone/photos"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_before_a_cluster(
    arguments: list[str], message: str, capsys: pytest.CaptureFixture[str], bucket: str, photos: Path
) -> None:
    assert bucket
    Path("empty").mkdir()
    Path("texts").mkdir()
    Path("texts/a.txt").write_text("none")
    Path("broken").mkdir()
    for name in ("a.png", "b.png"):
        Path("broken", name).write_bytes(b"none")
    shutil.copytree(photos, "listed")
    Path("listed/dataset.json").write_text('{"labels": [["gone.png", 1]]}')
    assert message in refusal(capsys, "train", *arguments)
    assert not Path("runs").exists()


def test_images_below_the_smallest_size_are_enlarged_and_it_is_said(
    capsys: pytest.CaptureFixture[str], here: Path
) -> None:
    save_photos(here / "tiny", 4, (5, 5))
    code, out, err = run(capsys, "train", "tiny", "--dry-run")
    assert code == 0
    assert "note: images of 5 pixels and the like are enlarged to 8x8\n" in err
    assert "# to_pack: 4 at 8x8x3, 768 bytes" in out


def test_a_disk_that_cannot_hold_the_set_is_named(
    capsys: pytest.CaptureFixture[str], here: Path, full_disk: Path
) -> None:
    save_photos(here / "large", 12, (128, 128))
    err = refusal(capsys, "train", "large", "data.resolution=128", f"storage={full_disk}/runs")
    assert f"the packed set in {full_disk}/runs/.packed/large-" in err
    assert "needs 589,824 more bytes, and its disk has 262,144 left" in err
    assert list(full_disk.iterdir()) == []


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this process cannot mount a tmpfs")
    yield folder
    subprocess.run(["umount", str(folder)], check=True)


def test_images_on_this_machine_are_not_submitted(capsys: pytest.CaptureFixture[str], photos: Path) -> None:
    assert photos.exists()
    assert "photos is images on this machine, which a job does not get; put them into a bucket" in refusal(
        capsys, "submit", "train", "photos"
    )
    code, out, _ = run(capsys, "submit", "--dry-run", "train", "s3://bucket/photos", "data.resolution=64")
    assert code == 0
    assert "entrypoint: python -m gan_dist train s3://bucket/photos data.resolution=64" in out


def test_doctor_looks_at_images(capsys: pytest.CaptureFixture[str], photos: Path) -> None:
    code, out, _ = run(capsys, "doctor", str(photos), "--json")
    found = {one["name"]: one for one in json.loads(out.splitlines()[-1])["checks"]}
    assert code == 0
    assert found["data"]["what"] == "12 images of 16x16x3, read at 16x16"
    assert found["run"]["level"] == "ok"
