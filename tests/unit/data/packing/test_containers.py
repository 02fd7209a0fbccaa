"""One set of images in every container, and LMDBs by themselves: the packed sets have the same bytes."""

from __future__ import annotations

import hashlib
import io
import os
import stat
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

import lmdb
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gan_dist.core import storage
from gan_dist.core.errors import DataError
from gan_dist.data.batches.readers import read_all
from gan_dist.data.builtin import DIGITS
from gan_dist.data.packing.decode import Decoding, RejectedError
from gan_dist.data.packing.plan import make_plan
from gan_dist.data.packing.sources import open_source
from gan_dist.data.packing.sources.items import SourceOptions
from gan_dist.data.packing.task import begin_packing, finish_packing, make_shard
from gan_dist.data.shards.shard_set import ShardSet
from tests.unit.data.packing.test_sources import names, picture, values

SOURCES = {
    "folder": "folder",
    "ZIP": "digits.zip",
    "tar": "digits.tar",
    "Parquet": "digits.parquet",
    "LMDB": "lmdb",
}
SHARDS = 6


def put_in_lmdb(folder: Path, pairs: list[tuple[bytes, bytes]]) -> Path:
    folder.mkdir(parents=True)
    with lmdb.open(str(folder), map_size=2**24) as environment, environment.begin(write=True) as transaction:
        for key, content in pairs:
            transaction.put(key, content)
    return folder


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The built-in digits as PNGs, in every container."""
    root = tmp_path_factory.mktemp("containers")
    rows = read_all(ShardSet(str(DIGITS)))
    assert rows.labels is not None
    members = []
    for number, (pixels, label) in enumerate(zip(rows.pixels, rows.labels, strict=True)):
        buffer = io.BytesIO()
        Image.fromarray(np.asarray(pixels).reshape(8, 8)).save(buffer, format="PNG")
        members.append((f"{label}/{number:04d}.png", str(label), buffer.getvalue()))
    members.sort()
    with zipfile.ZipFile(root / "digits.zip", "w", zipfile.ZIP_DEFLATED) as zipped:
        for path, _, content in members[::-1]:
            zipped.writestr(path, content)
    with tarfile.open(root / "digits.tar", "w") as tar:
        for path, label, content in members:
            (file := root / "folder" / path).parent.mkdir(parents=True, exist_ok=True)
            file.write_bytes(content)
            for name, part in ((path, content), (path.replace(".png", ".cls"), label.encode())):
                member = tarfile.TarInfo(name)
                member.size = len(part)
                tar.addfile(member, io.BytesIO(part))
    images = [{"bytes": content, "path": path} for path, _, content in members]
    pq.write_table(
        pa.table({"image": images, "label": [label for _, label, _ in members]}), root / "digits.parquet"
    )
    put_in_lmdb(root / "lmdb", [(path.encode(), content) for path, _, content in members[::-1]])
    return root


def packed(uri: str, dest: Path, *, no_labels: bool) -> dict[str, str]:
    """Pack as the tasks of a cluster do; return the hashes of the shards, and of all pixels and labels."""
    source = open_source(uri, SourceOptions(no_labels=no_labels))
    plan = make_plan(uri, source, Decoding(8, 1), 0.02)
    records = begin_packing(str(dest), plan)
    for job in plan.jobs():
        *_, last = make_shard(source.origin, plan, job, source.items[job.start : job.stop], str(dest), 1)
        assert last.record is not None
        records[job.number] = last.record
    manifest = finish_packing(str(dest), plan, source, records)
    assert (manifest.count, manifest.settings["quarantined"]) == (1797, "0")
    rows = read_all(ShardSet(str(dest)))
    digest = hashlib.sha256(rows.pixels.tobytes())
    if rows.labels is not None:
        digest.update(rows.labels.tobytes())
    shards = {
        file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(dest.glob("*.parquet"))
    }
    assert len(shards) == SHARDS
    return {**shards, "all": digest.hexdigest(), "classes": str(manifest.classes)}


@pytest.mark.parametrize("no_labels", [False, True])
def test_every_container_gives_the_same_bytes(digits: Path, tmp_path: Path, no_labels: bool) -> None:
    folder = packed(str(digits / "folder"), tmp_path / "folder", no_labels=no_labels)
    assert folder["classes"] == ("None" if no_labels else str(tuple("0123456789")))
    for kind, name in SOURCES.items():
        if no_labels or kind != "LMDB":
            assert packed(str(digits / name), tmp_path / kind, no_labels=no_labels) == folder, kind


# LMDBs


def test_an_lmdb_is_read_in_the_order_of_its_keys_and_never_written(tmp_path: Path) -> None:
    pairs = [(key, picture(n)) for n, key in enumerate([b"a", b"b\xff", b"c/1"])]
    folder = put_in_lmdb(tmp_path / "bedroom_train_lmdb", pairs[::-1])
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()}
    for path in folder.iterdir():
        path.chmod(stat.S_IRUSR)
    source = open_source(str(folder), SourceOptions())
    assert names(source) == ["data.mdb#a", r"data.mdb#b\xff", "data.mdb#c/1"]
    assert values(source) == [0, 1, 2]
    assert (source.classes, source.notes) == (None, [])
    assert names(open_source(str(folder / "data.mdb"), SourceOptions())) == names(source)
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in folder.iterdir()} == before
    (folder / "data.mdb").rename(tmp_path / "faces.lmdb")
    assert values(open_source(str(tmp_path / "faces.lmdb"), SourceOptions())) == [0, 1, 2]


def test_several_lmdbs_and_their_splits(tmp_path: Path) -> None:
    for number, name in enumerate(("a_train_lmdb", "b_train_lmdb", "a_val_lmdb")):
        put_in_lmdb(tmp_path / name, [(b"k", picture(number)), (b"l", picture(number + 10))])
    source = open_source(str(tmp_path), SourceOptions())
    assert names(source)[0] == "a_train_lmdb/data.mdb#k"
    assert values(source) == [0, 10, 1, 11]
    read = source.origin.open()
    assert values(open_source(str(tmp_path), SourceOptions(split="val"))) == [2, 12]
    assert read(source.items[3]) == picture(11)  # though another file was opened in between


def test_a_file_that_is_replaced_is_opened_anew(tmp_path: Path) -> None:
    put_in_lmdb(tmp_path / "a", [(b"k", picture(1))])
    put_in_lmdb(tmp_path / "b", [(b"k", picture(2)), (b"m", picture(3))])
    first = open_source(str(tmp_path / "a"), SourceOptions())
    assert values(first) == [1]
    (tmp_path / "b" / "data.mdb").replace(tmp_path / "a" / "data.mdb")
    assert values(open_source(str(tmp_path / "a"), SourceOptions())) == [2, 3]
    gone = first.items[0]._replace(inside=b"gone")
    with pytest.raises(RejectedError, match="the key is gone"):
        first.origin.open()(gone)


@pytest.mark.parametrize("kept", [0, 100, 5000, 20_000])
def test_an_lmdb_that_is_cut_is_refused(tmp_path: Path, kept: int) -> None:
    folder = put_in_lmdb(tmp_path / "x", [(str(n).encode(), bytes(5000)) for n in range(20)])
    os.truncate(folder / "data.mdb", kept)
    with pytest.raises(
        DataError, match=r"data.mdb (is cut off|cannot be read as an LMDB).*; fetch it again, or"
    ):
        open_source(str(folder), SourceOptions())


def test_an_lmdb_with_zeros_where_keys_were_is_refused(tmp_path: Path) -> None:
    """As a download leaves it that reserves the file's space and is stopped."""
    folder = put_in_lmdb(tmp_path / "x", [(f"{n:040}".encode(), bytes(100)) for n in range(300)])
    content = (folder / "data.mdb").read_bytes()
    at = content.index(f"{200:040}".encode()) // 4096 * 4096
    (folder / "data.mdb").write_bytes(content[:at] + bytes(4096) + content[at + 4096 :])
    with pytest.raises(DataError, match=r"data.mdb is damaged \(.+\); fetch it again, or remove it"):
        open_source(str(folder), SourceOptions())


def test_what_is_no_lmdb_or_empty_or_in_a_bucket_is_refused(tmp_path: Path, bucket: str) -> None:
    (tmp_path / "access.mdb").write_bytes(b"Standard Jet DB" * 1000)
    with pytest.raises(DataError, match=r"access.mdb cannot be read as an LMDB \(.*not an LMDB file"):
        open_source(str(tmp_path), SourceOptions())
    with pytest.raises(DataError, match="the LMDB holds no keys"):
        open_source(str(put_in_lmdb(tmp_path / "empty", [])), SourceOptions())
    storage.write_bytes(f"{bucket}/x/data.mdb", b"x")
    with pytest.raises(DataError, match="which a bucket cannot give; copy it to a disk that every node sees"):
        open_source(f"{bucket}/x", SourceOptions())


@pytest.fixture
def without_lmdb(tmp_path: Path) -> dict[str, str]:
    """The environment of a process in which the package cannot be imported."""
    (tmp_path / "hidden").mkdir()
    (tmp_path / "hidden" / "lmdb.py").write_text("raise ImportError('hidden')")
    paths = [str(tmp_path / "hidden"), *sys.path]
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, paths))}


def test_a_missing_package_is_told_with_the_line_that_installs_it(
    tmp_path: Path, without_lmdb: dict[str, str]
) -> None:
    folder = put_in_lmdb(tmp_path / "x", [(b"k", picture(1))])
    command = [
        sys.executable,
        "-m",
        "gan_dist",
        "pack",
        str(folder),
        str(tmp_path / "dest"),
        "--resolution",
        "8",
    ]
    done = subprocess.run(command, env=without_lmdb, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert 'which needs the package lmdb; pip install "gan-dist[lmdb]"' in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "dest").exists()
