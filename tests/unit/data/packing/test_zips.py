"""ZIPs of images: what is read of them, in which order, and what is refused before a byte is inflated."""

from __future__ import annotations

import io
import json
import random
import stat
import struct
import zipfile
import zlib
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from gan_dist.core import storage
from gan_dist.core.errors import DataError
from gan_dist.data.packing.decode import RejectedError
from gan_dist.data.packing.sources import open_source
from gan_dist.data.packing.sources.items import SourceOptions
from gan_dist.data.packing.sources.zips import MEMBER_LIMIT
from tests.support.faults import proxy
from tests.unit.data.packing.test_sources import labels, names, picture, put, values

CENTRAL, LOCAL = b"PK\1\2", b"PK\3\4"


def archive(
    path: Path, *members: tuple[str | zipfile.ZipInfo, bytes], method: int = zipfile.ZIP_STORED
) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w", method) as written:
        for name, content in members:
            written.writestr(name, content)
    return path


def pictures(*paths: str) -> list[tuple[str, bytes]]:
    return [(path, picture(number)) for number, path in enumerate(paths)]


def changed(path: Path, mark: bytes, at: int, content: bytes, which: int = 0) -> None:
    """Overwrite bytes of the header of one member, `at` bytes after its mark."""
    whole, place = bytearray(path.read_bytes()), -1
    for _ in range(which + 1):
        place = whole.index(mark, place + 1)
    whole[place + at : place + at + len(content)] = content
    path.write_bytes(whole)


def rejected(path: Path) -> dict[str, str]:
    return {one.path: one.reason for one in open_source(str(path), SourceOptions()).rejected}


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
@pytest.mark.parametrize("shuffled", [False, True])
def test_a_zip_is_read_as_the_folder_that_it_holds(tmp_path: Path, method: int, shuffled: bool) -> None:
    members = pictures("bird/a.png", "bird/deep/b.png", "cat/c.PNG", "dog/d.png")
    extra = [
        ("bird/.hidden.png", b""),
        ("__MACOSX/cat/._c.PNG", b"x"),
        ("cat/.DS_Store", b""),
        ("notes.txt", b""),
    ]
    for path, content in members:
        (file := tmp_path / "folder" / path).parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
    (tmp_path / "folder" / "notes.txt").touch()
    order = [*members, *extra, ("cow/", b"")]
    (tmp_path / "folder" / "cow").mkdir()
    if shuffled:
        random.Random(1).shuffle(order)
    source = open_source(str(archive(tmp_path / "faces.zip", *order, method=method)), SourceOptions())
    folder = open_source(str(tmp_path / "folder"), SourceOptions())
    assert names(source) == [f"faces.zip/{name}" for name in names(folder)]
    assert (labels(source), source.classes, source.notes) == (labels(folder), folder.classes, folder.notes)
    assert values(source) == values(folder) == [0, 1, 2, 3]
    assert source.rejected == []


def test_a_zip_of_stylegans(tmp_path: Path) -> None:
    images = pictures("00000/img00000000.png", "00000/img00000001.png", "00001/img00001000.png")
    listed = [[path, label] for (path, _), label in zip(images, [6, 10, 6], strict=True)]
    for name, content in (("a", {"labels": listed}), ("b", {"labels": None}), ("c", {})):
        archive(tmp_path / f"{name}.zip", *images, ("dataset.json", json.dumps(content).encode()))
    labelled = open_source(str(tmp_path / "a.zip"), SourceOptions())
    assert (labelled.classes, labels(labelled)) == (("6", "10"), [0, 1, 0])
    assert labelled.notes == ["the labels are those of dataset.json"]
    assert open_source(str(tmp_path / "a.zip"), SourceOptions(no_labels=True)).classes is None
    bare = open_source(str(tmp_path / "b.zip"), SourceOptions())
    assert (bare.classes, values(bare)) == (None, [0, 1, 2])
    assert open_source(str(tmp_path / "c.zip"), SourceOptions()).classes == ("00000", "00001")
    archive(tmp_path / "d.zip", *images[:2], ("dataset.json", json.dumps({"labels": listed}).encode()))
    with pytest.raises(
        DataError, match=r"d.zip/dataset.json lists 1 image that the source does not hold: 00001"
    ):
        open_source(str(tmp_path / "d.zip"), SourceOptions())


def test_metadata_and_splits_in_a_zip(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "a.zip",
        *pictures("train/a.png", "train/b.png", "test/c.png"),
        ("train/metadata.csv", b"file_name,label\nb.png,x\na.png,y\n"),
        ("test/metadata.csv", b"file_name,label\nc.png,y\n"),
    )
    source = open_source(str(path), SourceOptions())
    assert names(source) == ["a.zip/train/a.png", "a.zip/train/b.png"]
    assert (source.classes, labels(source)) == (("x", "y"), [1, 0])
    assert values(open_source(str(path), SourceOptions(split="test"))) == [2]


@pytest.mark.parametrize(
    ("paths", "classes"),
    [
        (["faces/cat/a.png", "faces/dog/b.png"], ("cat", "dog")),
        (["faces/a.png", "faces/b.png"], ("faces",)),
        (["train/cat/a.png", "train/dog/b.png"], ("cat", "dog")),
        (["faces/train/cat/a.png", "faces/test/dog/b.png"], ("cat",)),
        (["a.png", "b.png"], None),
    ],
)
def test_a_folder_around_all_is_no_class(
    tmp_path: Path, paths: list[str], classes: tuple[str, ...] | None
) -> None:
    path = archive(tmp_path / "a.zip", *pictures(*paths))
    source = open_source(str(path), SourceOptions())
    assert source.classes == classes
    noted = "the folder faces, in which all images are, is no class" in source.notes
    assert noted == (paths[0].count("/") > 1 and paths[0].startswith("faces"))


def test_several_zips_of_a_folder_follow_each_other(tmp_path: Path) -> None:
    archive(tmp_path / "b.zip", *pictures("cat/x.png"))
    archive(tmp_path / "a.zip", *pictures("cat/z.png", "dog/y.png"))
    (tmp_path / "notes.txt").touch()
    source = open_source(str(tmp_path), SourceOptions())
    assert names(source) == ["a.zip/cat/z.png", "a.zip/dog/y.png", "b.zip/cat/x.png"]
    assert (values(source), labels(source)) == ([0, 1, 0], [0, 1, 0])
    assert source.notes == ["left out what is not named like a ZIP: .txt 1"]
    with pytest.raises(DataError, match="--labels is for a folder or one ZIP"):
        open_source(str(tmp_path), SourceOptions(labels="l.csv"))
    (tmp_path / "c.zip").touch()
    with pytest.raises(
        DataError, match=r"c.zip is an empty file, no ZIP; fetch or write it again, or remove it"
    ):
        open_source(str(tmp_path), SourceOptions())


def test_zips_named_by_splits(tmp_path: Path) -> None:
    archive(tmp_path / "train.zip", *pictures("cat/x.png", "dog/y.png"))
    archive(tmp_path / "val.zip", ("cat/z.png", picture(7)))
    assert values(open_source(str(tmp_path), SourceOptions())) == [0, 1]
    assert values(open_source(str(tmp_path), SourceOptions(split="val"))) == [7]


def test_a_list_of_labels_for_a_zip(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", *pictures("x/a.png", "b.png"))
    (tmp_path / "l.csv").write_text("path,label\nx/a.png,1\nb.png,2\n")
    source = open_source(str(path), SourceOptions(labels=str(tmp_path / "l.csv")))
    assert dict(zip(names(source), labels(source), strict=True)) == {"a.zip/b.png": 1, "a.zip/x/a.png": 0}


def test_names_of_other_encodings(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", *pictures("XXXX.png", "YYYY/b.png", "ZZZZ/c.png"))
    content = path.read_bytes().replace(b"XXXX", b"\xff\xfe\x80x").replace(b"YYYY", "éé".encode())
    path.write_bytes(content.replace(b"ZZZZ/c", b"back\\c"))
    source = open_source(str(path), SourceOptions(no_labels=True))
    assert sorted(names(source)) == ["a.zip/back/c.png", "a.zip/\u00a0■Çx.png", "a.zip/éé/b.png"]
    for header, at in ((LOCAL, 6), (CENTRAL, 8)):
        changed(path, header, at, struct.pack("<H", 0x800))
    with pytest.raises(
        DataError, match=r"a.zip: the directory at the end of the ZIP is cut off or damaged .*utf-8"
    ):
        open_source(str(path), SourceOptions())


def test_a_local_header_may_be_longer_than_the_directory_says(tmp_path: Path) -> None:
    info = zipfile.ZipInfo("a.png")
    info.extra = struct.pack("<HH", 0x9999, 20_000) + bytes(20_000)
    path = archive(tmp_path / "a.zip", (info, picture(3)), ("b.png", picture(4)))
    whole = path.read_bytes()
    start = whole.index(CENTRAL)
    assert struct.unpack("<H", whole[start + 30 : start + 32]) == (20_004,)
    # As Info-ZIP writes it: fields of time and owner that are shorter, or absent, in the directory.
    cut = (
        whole[: start + 30] + b"\0\0" + whole[start + 32 : start + 46 + 5] + whole[start + 46 + 5 + 20_004 :]
    )
    end = cut.index(b"PK\5\6")
    path.write_bytes(cut[: end + 12] + struct.pack("<I", end - start) + cut[end + 16 :])
    for shift in (b"", b"#!/bin/sh\n"):  # what stands before the ZIP moves all offsets
        path.write_bytes(shift + path.read_bytes())
        source = open_source(str(path), SourceOptions())
        assert values(source) == [3, 4]


def test_zip64(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("ZIP64_LIMIT", "ZIP_FILECOUNT_LIMIT"):  # sizes and counts above 32 and 16 bits, in small
        monkeypatch.setattr(zipfile, name, 1)
    path = tmp_path / "a.zip"
    with zipfile.ZipFile(path, "w") as written:
        for number in range(3):
            with written.open(f"{number}.png", "w", force_zip64=True) as member:
                member.write(picture(number))
    monkeypatch.undo()
    assert b"PK\6\6" in path.read_bytes()
    assert values(open_source(str(path), SourceOptions())) == [0, 1, 2]


def test_what_cannot_be_used_is_rejected_by_name_and_the_rest_used(tmp_path: Path) -> None:
    link = zipfile.ZipInfo("link.png")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16
    path = archive(
        tmp_path / "a.zip",
        *pictures("good.png", "large.png", "locked.png", "lying.png", "beyond.png", "twice.png"),
        ("../up.png", picture(0)),
        ("/etc/root.png", picture(0)),
        (link, b"good.png"),
    )
    with zipfile.ZipFile(path, "a") as written:
        written.writestr("other.png", picture(1), zipfile.ZIP_BZIP2)
        with pytest.warns(UserWarning, match="Duplicate name"):
            written.writestr("twice.png", picture(2))
    changed(path, CENTRAL, 24, struct.pack("<I", MEMBER_LIMIT + 1), which=1)
    changed(path, CENTRAL, 8, struct.pack("<H", 1), which=2)
    changed(path, CENTRAL, 24, struct.pack("<I", 5), which=3)
    changed(path, CENTRAL, 20, struct.pack("<II", 900_000, 900_000), which=4)
    source = open_source(str(path), SourceOptions())
    assert names(source) == ["a.zip/good.png", "a.zip/twice.png"]
    assert values(source) == [0, 2]
    assert rejected(path) == {
        "a.zip/large.png": "too large: 715,827,881 bytes, more than the 715,827,880 that an image may have",
        "a.zip/locked.png": "encrypted: write the ZIP without a password",
        "a.zip/lying.png": "damaged: it is not compressed, but its two sizes differ",
        "a.zip/beyond.png": "damaged: it would reach beyond the members' part of the ZIP",
        "a.zip/link.png": "a link, not a file",
        "a.zip/other.png": "compressed by bzip2: only deflate, or nothing, is read",
        "a.zip/twice.png": "replaced by a later member of the same name",
        "a.zip/../up.png": "unsafe name",
        "a.zip//etc/root.png": "unsafe name",
    }
    assert [one.name for one in tmp_path.iterdir()] == ["a.zip"]


def test_a_bomb_inflates_to_no_more_than_it_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bomb = bytes(50_000_000)
    path = archive(tmp_path / "a.zip", ("a.png", bomb), ("b.png", picture(1)), method=zipfile.ZIP_DEFLATED)
    assert path.stat().st_size < 100_000
    changed(path, CENTRAL, 24, struct.pack("<I", 1000))
    asked: list[int] = []
    make = zlib.decompressobj

    class Watched:
        def __init__(self, bits: int) -> None:
            self._inflater = make(bits)

        def decompress(self, content: bytes, limit: int) -> bytes:
            asked.append(limit)
            return self._inflater.decompress(content, limit)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._inflater, name)

    monkeypatch.setattr(zlib, "decompressobj", Watched)
    source = open_source(str(path), SourceOptions())
    read = source.origin.open()
    with pytest.raises(RejectedError, match="it does not hold the 1,000 bytes that the ZIP gives"):
        read(source.items[0])
    assert max(asked) == 1000
    assert read(source.items[1]) == picture(1)


@pytest.mark.parametrize("method", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])
def test_every_flipped_byte_of_a_member_is_noticed(tmp_path: Path, method: int) -> None:
    path = archive(tmp_path / "a.zip", ("a.png", picture(1)), method=method)
    source = open_source(str(path), SourceOptions())
    whole = path.read_bytes()
    begin = whole.index(b"a.png") + 5
    for at in range(begin, begin + source.items[0].size):
        path.write_bytes(whole[:at] + bytes([whole[at] ^ 0x10]) + whole[at + 1 :])
        with pytest.raises(RejectedError, match="damaged: "):
            source.origin.open()(source.items[0])
    path.write_bytes(whole[: begin + 10])
    with pytest.raises(RejectedError, match=r"damaged: 10 of \d+ bytes are there"):
        source.origin.open()(source.items[0])
    path.write_bytes(b"x" * len(whole))
    with pytest.raises(RejectedError, match="damaged: there is no header where"):
        source.origin.open()(source.items[0])


def test_a_zip_that_is_cut_anywhere_is_an_error_that_names_it(tmp_path: Path) -> None:
    path = archive(tmp_path / "a.zip", *pictures("a.png", "b.png"))
    whole = path.read_bytes()
    for length in range(1, len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(DataError, match=r"a.zip: the directory at the end .* fetch or write it again"):
            open_source(str(path), SourceOptions())
    path.write_bytes(whole[50:])  # the beginning is missing
    source = open_source(str(path), SourceOptions())
    assert names(source) == ["a.zip/b.png"]
    assert source.rejected == [("a.zip/a.png", "damaged: it would reach beyond the members' part of the ZIP")]
    assert source.origin.open()(source.items[0]) == picture(1)


def test_random_damage_is_an_error_or_a_rejection_and_nothing_else(tmp_path: Path) -> None:
    path = archive(
        tmp_path / "a.zip", *pictures("x/a.png", "x/b.png", "y/c.png"), method=zipfile.ZIP_DEFLATED
    )
    whole, draw = path.read_bytes(), random.Random(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            source = open_source(str(path), SourceOptions())
        except DataError:
            continue
        read = source.origin.open()
        for item in source.items:
            with suppress(RejectedError):
                assert read(item) in (picture(0), picture(1), picture(2))


@pytest.mark.parametrize(
    ("members", "message"),
    [
        (
            [("a.tar", b"x"), ("b.txt", b"")],
            "holds no images; it holds .tar 1, .txt 1; containers in a ZIP must",
        ),
        ([], "holds no images; it is empty"),
        ([("../a.png", b"x")], "holds no images; it is empty"),
    ],
)
def test_a_zip_without_images_is_refused(
    tmp_path: Path, members: Sequence[tuple[str, bytes]], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        open_source(str(archive(tmp_path / "a.zip", *members)), SourceOptions())


def test_a_zip_and_something_else_are_asked_about(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    archive(tmp_path / "a.zip", *pictures("a.png"))
    with pytest.raises(DataError, match="holds 1 image and 1 ZIP; give a folder that holds one kind"):
        open_source(str(tmp_path), SourceOptions())


@pytest.mark.parametrize("shuffled", [False, True])
def test_a_zip_in_a_bucket_is_read_by_ranges_through_faults(
    bucket: str, s3_url: str, shuffled: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    draw = random.Random(2)
    members = [(f"{n:03d}.png", draw.randbytes(20_000)) for n in range(40)]
    expected = [content for _, content in members]
    if shuffled:
        draw.shuffle(members)
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as written:
        for name, content in [*members, ("more.bin", draw.randbytes(20_000_000))]:
            written.writestr(name, content)
    storage.write_bytes(f"{bucket}/a.zip", buffer.getvalue())
    with proxy(s3_url, seed=1) as running:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{running.port}")
        source = open_source(f"{bucket}/a.zip", SourceOptions())
        assert source.origin.readers == (16 if shuffled else 1)
        listing = running.counts.total()
        assert listing < 12
        read = source.origin.open()
        assert [read(item) for item in source.items] == expected
        asked = running.counts.total() - listing
        assert asked < 60 if shuffled else asked < 6
        running.faults.errors, running.faults.reset, running.faults.truncate = 0.2, 0.1, 0.1
        read = source.origin.open()
        assert [read(item) for item in source.items] == expected
