"""Packing on a real local Ray, compared with a plain loop; killed and continued by the real command line."""

from __future__ import annotations

import io
import json
import os
import random
import shlex
import signal
import subprocess
import sys
import tarfile
import time
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
import typer
from PIL import Image, ImageOps
from ray.data import DataContext

from gan_dist import cli
from gan_dist.core import storage
from gan_dist.core.errors import DataError, StorageError
from gan_dist.core.storage import filesystems
from gan_dist.data.batches.readers import read_all
from gan_dist.data.packing.decode import Decoding
from gan_dist.data.packing.plan import make_plan
from gan_dist.data.packing.ray_pack import pack, shard_tasks, threads_of
from gan_dist.data.packing.resize import resize
from gan_dist.data.packing.sources import open_source
from gan_dist.data.packing.sources.files import Ranges
from gan_dist.data.packing.sources.items import Item, Source, SourceOptions
from gan_dist.data.shards.rows import Rows
from gan_dist.data.shards.shard_set import ShardSet
from gan_dist.data.shards.verify import verify_set

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

BAD = {
    "bird/empty.png": (b"", "empty file"),
    "cat/page.jpg": (b"<html>", "no image of a supported format"),
    "dog/cut.jpg": (b"", "damaged: image file is truncated"),
}


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """300 images of many sizes in three folders, and three files that are none."""
    folder = tmp_path_factory.mktemp("photos")
    draw = np.random.default_rng(0)
    for number in range(300):
        size = tuple(draw.integers(20, 90, 2).tolist())
        pixels = Image.fromarray(draw.integers(0, 256, (5, 4, 3), dtype=np.uint8)).resize(size)
        exif = Image.Exif()
        exif[0x0112] = int(draw.integers(1, 9))
        path = folder / ("bird", "cat", "dog")[number % 3] / f"{number:03d}.{'jpg' if number % 2 else 'png'}"
        path.parent.mkdir(exist_ok=True)
        pixels.save(path, exif=exif)
    whole = (folder / "cat" / "001.jpg").read_bytes()
    for name, (content, _) in BAD.items():
        (folder / name).write_bytes(whole[:-200] if "cut" in name else content)
    return folder


def slow_reference(folder: Path, resolution: int) -> Rows:
    """Pack by the plainest loop."""
    pixels, labels = [], []
    classes = sorted(path.name for path in folder.iterdir())
    for path in sorted(folder.rglob("*.*"), key=str):
        if str(path.relative_to(folder)) in BAD:
            continue
        image = ImageOps.exif_transpose(Image.open(path)).convert("RGB")
        edge = min(image.size)
        left, top = (image.width - edge) // 2, (image.height - edge) // 2
        square = (left, top, left + edge, top + edge)
        pixels.append(resize(image, square, resolution, "lanczos").reshape(-1))
        labels.append(classes.index(path.parent.name))
    return Rows(np.stack(pixels), np.array(labels))


def run(*arguments: object) -> None:
    """Run the command line in this process, on the cluster that is connected."""
    cli.app([str(argument) for argument in arguments], standalone_mode=False)


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def last_json(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    result: dict[str, Any] = json.loads(capsys.readouterr().out.splitlines()[-1])
    return result


@pytest.mark.parametrize(
    ("shards", "free", "largest", "threads"),
    [
        (19, 2, 2, [1] * 18 + [2]),
        (18, 2, 2, [1] * 18),
        (1, 16, 8, [8]),
        (3, 16, 8, [5] * 3),
        (100, 64, 16, [1] * 100),
        (66, 64, 16, [1] * 64 + [16] * 2),
        (5, 0, 4, [1] * 5),
    ],
)
def test_cpus_without_a_shard_help_with_the_last_ones(
    shards: int, free: int, largest: int, threads: list[int]
) -> None:
    assert threads_of(shards, free, largest) == threads


def test_tasks_reach_the_store_as_the_command_is_told(
    photos: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened: list[str] = []
    kept = filesystems._s3

    def noted(using: storage.StorageOptions, *where: Any) -> Any:
        opened.append(using.backend)
        return kept(using, *where)

    monkeypatch.setattr(filesystems, "_s3", noted)
    source = open_source(str(photos), SourceOptions())
    plan = make_plan(str(photos), source, Decoding(24, 3, "lanczos"), 64.0)
    storage.configure(storage.StorageOptions(backend="s3fs"))
    (task,) = shard_tasks(source, bucket, plan, plan.jobs()[:1])
    storage.configure(storage.StorageOptions())
    list(task())
    assert set(opened) == {"s3fs"}

    run("pack", photos, f"{bucket}/set", "--resolution", "24", "--max-bad", "3", "--backend", "s3fs")
    opened.clear()
    run("pack", "--verify", f"{bucket}/set", "--backend", "s3fs")
    assert set(opened) == {"s3fs"}
    with pytest.raises(typer.BadParameter, match="neither pyarrow nor s3fs"):
        run("pack", "--verify", f"{bucket}/set", "--backend", "boto")


def test_a_packed_folder_is_what_a_plain_loop_makes(
    photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = (
        "pack",
        photos,
        tmp_path,
        "--resolution",
        "24",
        "--shard-mb",
        "0.1",
        "--max-bad",
        "3",
        "--json",
    )
    limit = DataContext.get_current().target_max_block_size
    run(*command)
    result = last_json(capsys)
    assert result.pop("images_per_second") > 0
    # What this process streams afterwards is not cut as reports are.
    assert DataContext.get_current().target_max_block_size == limit != 1
    files = sorted(path.name for path in tmp_path.iterdir())
    shards = [name for name in files if name.startswith("shard-")]
    size = sum((tmp_path / name).stat().st_size for name in shards)
    counts = {"images": 300, "shards": len(shards), "bytes": size}
    assert result == {**counts, "quarantined": 3, "dest": str(tmp_path)}
    assert files == ["manifest.json", "pack.json", "quarantine.jsonl", *shards]
    assert len(shards) == 6

    packed = ShardSet(str(tmp_path))
    assert packed.manifest.classes == ("bird", "cat", "dog")
    assert packed.manifest.settings["filter"] == "lanczos"
    rows, expected = read_all(packed), slow_reference(photos, 24)
    np.testing.assert_array_equal(rows.pixels, expected.pixels)
    assert rows.labels is not None
    np.testing.assert_array_equal(rows.labels, expected.labels)

    left_out = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert [record["path"] for record in left_out] == list(BAD)
    for record in left_out:
        assert record["reason"].startswith(BAD[record["path"]][1])

    run("pack", "--verify", tmp_path, "--json")
    assert last_json(capsys) == {**counts, "dest": str(tmp_path)}

    before = contents(tmp_path)
    run(*command)
    told = capsys.readouterr().out.splitlines()
    assert "is complete already" in told[0]
    arguments = shlex.split(told[told.index("train on it with") + 1])
    run(*arguments[arguments.index("train") :], "--dry-run")
    assert "images: 300 of 24x24x3, read at 16x16" in capsys.readouterr().out
    assert contents(tmp_path) == before
    with pytest.raises(
        DataError, match=r"begun with another plan: filter was lanczos and is box; give the same"
    ):
        run(*command, "--filter", "box")


def test_every_damaged_shard_is_named(photos: Path, tmp_path: Path) -> None:
    run("pack", photos, tmp_path, "--resolution", "16", "--shard-mb", "0.04", "--max-bad", "3")
    assert verify_set(str(tmp_path)).count == 300
    shards = sorted(tmp_path.glob("shard-*"))
    flipped = bytearray(shards[1].read_bytes())
    flipped[2000] ^= 1
    shards[1].write_bytes(flipped)
    shards[2].write_bytes(shards[2].read_bytes()[:-1])
    shards[3].unlink()
    # The footer names the writer, which nothing but the hash of the whole file covers.
    shards[4].write_bytes(shards[4].read_bytes().replace(b"parquet-cpp", b"parquet-CPP"))
    with pytest.raises(DataError) as caught:
        run("pack", "--verify", tmp_path)
    assert caught.value.exit_code == 2
    first, *lines = str(caught.value).splitlines()
    assert first.startswith(f"4 of {len(shards)} shards of {tmp_path} are missing or damaged")
    for line, shard, what in zip(
        lines, shards[1:5], ("row group 0: ", "bytes, not", "missing", "sha256"), strict=True
    ):
        assert line.startswith(f"  {shard.name}: ")
        assert what in line


def test_too_many_bad_images_end_it_and_what_is_finished_is_used_later(photos: Path, tmp_path: Path) -> None:
    whole, dest = tmp_path / "whole", tmp_path / "dest"
    common = ("--resolution", "16", "--shard-mb", "0.04")
    run("pack", photos, whole, *common, "--max-bad", "1%")
    with pytest.raises(DataError) as caught:
        run("pack", photos, dest, *common, "--max-bad", "1")
    message = str(caught.value)
    assert "of 303 images cannot be used so far, and --max-bad 1 allows 1; mend or remove them" in message
    assert "  bird/empty.png: empty file" in message
    assert not (dest / "manifest.json").exists()
    finished = sorted((dest / ".pack").iterdir())
    assert finished
    shard = dest / f"{finished[0].stem}.parquet"
    kept = [dest / f"{record.stem}.parquet" for record in finished[1:]]
    times = [file.stat().st_mtime_ns for file in kept]
    shard.write_bytes(b"damaged")
    run("pack", photos, dest, *common, "--max-bad", "100%")
    assert [file.stat().st_mtime_ns for file in kept] == times
    assert contents(dest) == contents(whole)


def test_tars_parquet_and_zips_give_the_pixels_of_the_folder(photos: Path, tmp_path: Path) -> None:
    good = [path for path in sorted(photos.rglob("*.*"), key=str) if str(path.relative_to(photos)) not in BAD]
    (tmp_path / "tars").mkdir()
    with tarfile.open(tmp_path / "tars" / "a.tar", "w") as archive:
        for number, path in enumerate(good):
            for suffix, content in ((path.suffix, path.read_bytes()), (".cls", path.parent.name.encode())):
                member = tarfile.TarInfo(f"{number:05d}{suffix}")
                member.size = len(content)
                archive.addfile(member, io.BytesIO(content))
    images = pa.array([{"bytes": path.read_bytes(), "path": path.name} for path in good])
    table = pa.table({"image": images, "label": [path.parent.name for path in good]})
    pq.write_table(table, tmp_path / "a.parquet", row_group_size=45)

    with zipfile.ZipFile(tmp_path / "a.zip", "w") as zipped:
        for path in good:
            zipped.write(path, path.relative_to(photos))

    expected = slow_reference(photos, 16)
    for name, source in (
        ("t", tmp_path / "tars"),
        ("p", tmp_path / "a.parquet"),
        ("z", tmp_path / "a.zip"),
    ):
        run("pack", source, tmp_path / name, "--resolution", "16")
        packed = ShardSet(str(tmp_path / name))
        assert packed.manifest.classes == ("bird", "cat", "dog")
        rows = read_all(packed)
        np.testing.assert_array_equal(rows.pixels, expected.pixels)
        assert rows.labels is not None
        assert expected.labels is not None
        np.testing.assert_array_equal(rows.labels, expected.labels)


def test_three_pictures_are_a_set_and_what_is_odd_about_them_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "three"
    folder.mkdir()
    Image.new("RGB", (5, 5), "red").save(folder / "small.png")
    Image.new("RGB", (16, 16), "red").save(folder / "fine.png")
    Image.fromarray(np.full((16, 16), 4000, np.uint16)).save(folder / "dark.png")
    run("pack", folder, tmp_path / "dest", "--resolution", "16")
    told = capsys.readouterr().out
    assert f"{tmp_path / 'dest'}: 3 images in 1 shard" in told
    assert "  1 enlarged, being smaller than 16 pixels" in told
    assert "  1 nearly black, using at most 12 of 16 bits a sample" in told


def test_grey_and_unlabelled(photos: Path, tmp_path: Path) -> None:
    options = ("--resolution", "16", "--channels", "1", "--no-labels", "--max-bad", "2%")
    run("pack", photos, tmp_path, *options)
    packed = ShardSet(str(tmp_path))
    assert (packed.manifest.channels, packed.manifest.classes) == (1, None)
    rows = read_all(packed)
    assert rows.pixels.shape == (300, 256)
    assert rows.labels is None


def test_storage_that_fails_is_the_users_error_and_no_bad_image(tmp_path: Path) -> None:
    (tmp_path / "a.tar").mkdir()
    items = [Item(f"a.tar/{n}.png", "a.tar", n * 1024, 100, -1) for n in range(20)]
    source = Source(Ranges(str(tmp_path)), items, None, [], [])
    plan = make_plan("nowhere", source, Decoding(8), 1.0)
    with pytest.raises(StorageError) as caught:
        pack(source, str(tmp_path / "dest"), plan, "100%", lambda _: None)
    message = str(caught.value)
    assert message.startswith(f"{tmp_path}/a.tar cannot be used: ")
    assert "\n" not in message


# Killed


@pytest.fixture(scope="module")
def slow_photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images that take seconds to decode, with some that are none."""
    folder = tmp_path_factory.mktemp("slow")
    noise = np.random.default_rng(0).integers(0, 256, (600, 600, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, format="JPEG", quality=95)
    content = buffer.getvalue()
    for number in range(240):
        path = folder / f"{'ab'[number % 2]}" / f"{number:03d}.jpg"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content[:1000] if number % 60 == 30 else content)
    return folder


def stop_and_continue(photos: Path, folder: Path, signals: Sequence[int], seed: int) -> None:
    """Compare an undisturbed packing with one whose process is killed or interrupted again and again.

    The processes join the cluster of these tests: starting one would take longer than packing.
    """
    draw = random.Random(seed)
    whole, dest = folder / "whole", folder / "dest"
    options = ["--resolution", "16", "--shard-mb", "0.01", "--max-bad", "4"]
    run("pack", photos, whole, *options)
    total = len(list(whole.glob("shard-*")))
    command = [sys.executable, "-m", "gan_dist", "pack", str(photos), str(dest), *options]
    env = {**os.environ, "RAY_ADDRESS": ray.get_runtime_context().gcs_address}
    for kill, number in enumerate(signals):
        # At a random moment between two states, or in the middle of what leads from one to the other.
        target = draw.randint(0, total * (kill + 1) // (len(signals) + 1))
        with subprocess.Popen(
            command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        ) as process:
            deadline = time.monotonic() + 60
            while not (dest / "pack.json").exists() or len(list(dest.glob("shard-*"))) < target:
                assert process.poll() is None, process.communicate()[0]
                assert time.monotonic() < deadline
                time.sleep(0.005)
            time.sleep(draw.uniform(0, 0.1))
            os.kill(process.pid, number)
            said = process.communicate()[0]
        if number != signal.SIGKILL:
            assert process.returncode == 130
            assert said.splitlines()[-1] == "stopped; the same command again continues", said
        assert not (dest / "manifest.json").exists()
    finished = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    assert contents(dest) == contents(whole)
    verify_set(str(dest))


def test_a_killed_or_interrupted_packing_continues_to_the_same_bytes(
    slow_photos: Path, tmp_path: Path
) -> None:
    signals = [signal.SIGKILL, signal.SIGTERM]
    stop_and_continue(slow_photos, tmp_path, signals, seed=1)


@pytest.mark.soak
def test_twenty_kills_change_nothing(slow_photos: Path, tmp_path: Path) -> None:
    signals = [signal.SIGKILL] * 19 + [signal.SIGINT]
    stop_and_continue(slow_photos, tmp_path, signals, seed=2)
