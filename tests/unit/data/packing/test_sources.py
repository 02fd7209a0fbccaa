from __future__ import annotations

import io
import json
import os
import pickle
import socket
import struct
import tarfile
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from gan_dist.core import storage
from gan_dist.core.errors import DataError
from gan_dist.core.storage import StorageOptions, redact
from gan_dist.data.packing.decode import Decoding, RejectedError, decode
from gan_dist.data.packing.plan import make_plan
from gan_dist.data.packing.sources import open_source, tables
from gan_dist.data.packing.sources.files import Files, SteadyFile
from gan_dist.data.packing.sources.items import Item, Source, SourceOptions, counted, number_classes
from tests.support.privileges import permissions


def picture(value: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (8, 8), (value, value, value)).save(buffer, format="PNG")
    return buffer.getvalue()


def put(folder: Path, *paths: str) -> None:
    for number, path in enumerate(paths):
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(picture(number))


def names(source: Source) -> list[str]:
    return [item.name for item in source.items]


def labels(source: Source) -> list[int]:
    return [item.label for item in source.items]


def values(source: Source) -> list[int]:
    """Read all items in another process's manner, in an order that is not theirs, and return their grey."""
    read = pickle.loads(pickle.dumps(source.origin)).open()
    order = np.random.default_rng(0).permutation(len(source.items))
    found = {int(n): int(decode(read(source.items[n]), Decoding(1)).pixels[0, 0, 0]) for n in order}
    return [found[n] for n in range(len(order))]


# Folders


def test_images_in_folders_are_sorted_and_labelled_by_the_first_folder(tmp_path: Path) -> None:
    put(tmp_path, "dog/b.png", "cat/deep/a.JPG", "dog/a.webp", "cat/.hidden.png", ".git/x.png", "cat/z.jpeg")
    (tmp_path / "README.txt").write_text("about")
    source = open_source(str(tmp_path), SourceOptions())
    assert names(source) == ["cat/deep/a.JPG", "cat/z.jpeg", "dog/a.webp", "dog/b.png"]
    assert source.classes == ("cat", "dog")
    assert labels(source) == [0, 0, 1, 1]
    assert values(source) == [1, 5, 2, 0]
    assert source.notes == ["left out what is not named like an image: .txt 1"]


def test_a_flat_folder_and_no_labels_give_none(tmp_path: Path) -> None:
    put(tmp_path / "flat", "b.png", "a.png")
    put(tmp_path / "deep", "x/a.png", "b.png")
    for folder in ("flat", "deep"):
        source = open_source(str(tmp_path / folder), SourceOptions(no_labels=True))
        assert source.classes is None
        assert labels(source) == [-1, -1]
    assert open_source(str(tmp_path / "flat"), SourceOptions()).classes is None


def test_pictures_that_cannot_be_decoded_are_listed_so_that_they_are_seen(tmp_path: Path) -> None:
    put(tmp_path, "a.heic", "b.png")
    assert names(open_source(str(tmp_path), SourceOptions())) == ["a.heic", "b.png"]


HOSTILE = "[" * 200_000
"""JSON that Python's reader does not get to the end of."""


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (HOSTILE, ':1 is not an object like {"path"'),
        ('{"path": "a.png", "label": ' + "1" * 5000 + "}", ':1 is not an object like {"path"'),
        ('{"path": "\\ud800.png", "label": "x"}', r"does not hold: \\ud800.png; paths are"),
    ],
)
def test_a_list_of_labels_that_attacks_is_refused(tmp_path: Path, line: str, message: str) -> None:
    put(tmp_path, "a.png")
    (tmp_path / "l.jsonl").write_text(line)
    with pytest.raises(DataError, match=message) as caught:
        open_source(str(tmp_path), SourceOptions(labels=str(tmp_path / "l.jsonl")))
    assert str(caught.value).encode()


def test_labels_may_be_any_text(tmp_path: Path) -> None:
    put(tmp_path, "a.png", "b.png", "c.png")
    wanted = {"a.png": "next\u2028line", "b.png": "1" * 5000, "c.png": "half \ud800"}
    lines = [
        json.dumps({"path": path, "label": label}, ensure_ascii=path != "a.png")
        for path, label in wanted.items()
    ]
    (tmp_path / "l.jsonl").write_text("\r\n".join(lines), newline="")
    source = open_source(str(tmp_path), SourceOptions(labels=str(tmp_path / "l.jsonl")))
    assert source.classes == ("1" * 5000, r"half \ud800", "next\u2028line")
    assert labels(source) == [2, 0, 1]
    make_plan("x", source, Decoding(8), 1.0).model_dump_json()


def test_a_file_that_goes_away_is_rejected(tmp_path: Path) -> None:
    put(tmp_path, "a.png")
    source = open_source(str(tmp_path), SourceOptions())
    (tmp_path / "a.png").unlink()
    with pytest.raises(RejectedError, match="the file is gone"):
        source.origin.open()(source.items[0])


LISTS = {
    "mac.csv": "path,label\ra.png,two\rb.png,ten\r",
    "labels.csv": "\ufeffpath,label,other\n./b.png,ten,1\na.png,two,2\n",
    "labels.jsonl": '{"path": "a.png", "label": "two"}\n\n{"label": "ten", "path": "b.png", "x": 1}\n',
}


@pytest.mark.parametrize("name", LISTS)
def test_a_list_of_labels_overrides_folders(tmp_path: Path, name: str) -> None:
    put(tmp_path, "a.png", "b.png")
    (tmp_path / name).write_text(LISTS[name])
    source = open_source(str(tmp_path), SourceOptions(labels=str(tmp_path / name)))
    assert source.classes == ("ten", "two")
    assert labels(source) == [1, 0]
    assert source.notes == []


def test_one_thing_is_singular() -> None:
    assert [counted(n, "image") for n in (0, 1, 2000)] == ["0 images", "1 image", "2,000 images"]


def test_numbers_as_labels_are_sorted_by_value() -> None:
    assert number_classes(["10", "9", "9", "100"]) == {"9": 0, "10": 1, "100": 2}
    assert number_classes(["10", "9", "x"]) == {"10": 0, "9": 1, "x": 2}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("path,label\na.png,1\nb.png,2\nc.png,3\n", "lists 1 image that the source does not hold: c.png"),
        ("path,label\na.png,1\n", "gives no label for 1 of 2 images: b.png"),
        ("file,label\na.png,1\n", "columns path,label; it has file,label"),
        ("path,label\na.png,\n", ":2 needs a value for both"),
        ("path,label\na.png,1\na.png,2\n", "gives a.png the label 2, but it had 1"),
        ("", "columns path,label; it has "),
        ('path,label\n"a.png,1\n' + "b.png,2\n" * 20_000, "l.csv:\\d+ cannot be read as CSV: field larger"),
        ('"' + "x" * 140_000, "l.csv:\\d+ cannot be read as CSV: field larger"),
    ],
)
def test_a_list_of_labels_that_does_not_fit_is_refused(tmp_path: Path, text: str, message: str) -> None:
    put(tmp_path, "a.png", "b.png")
    (tmp_path / "l.csv").write_text(text)
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path), SourceOptions(labels=str(tmp_path / "l.csv")))


@pytest.mark.parametrize(
    ("files", "message"),
    [
        (["a.png", "cat/b.png"], "holds 1 image beside its folders of classes: a.png"),
        (["a.png", "b.tar"], "holds 1 image and 1 tar; give a folder that holds one kind"),
        (
            ["a.txt", "b"],
            r"holds no images, ZIPs, tars, Parquet files or LMDBs; its 2 files .* \(.txt 1, no suffix 1\)",
        ),
        (["manifest.json", "shard-00000.parquet"], "is a packed set already"),
        ([".hidden.png"], "holds no images, ZIPs, tars, Parquet files or LMDBs"),
    ],
)
def test_a_folder_that_is_not_clear_is_refused(tmp_path: Path, files: list[str], message: str) -> None:
    put(tmp_path, *files)
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path), SourceOptions())


def test_a_source_that_is_missing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="does not exist; give a folder"):
        open_source(str(tmp_path / "none"), SourceOptions())


@pytest.mark.parametrize("scheme", ["", "file://"])
def test_a_name_that_is_not_utf8_is_refused(tmp_path: Path, scheme: str) -> None:
    put(tmp_path, "dog/a.png")
    (tmp_path / "dog" / os.fsdecode(b"bad\xff.png")).touch()
    with pytest.raises(DataError, match=r"holds a name that is not UTF-8 \(b'dog/bad\\xff.png'\); rename it"):
        open_source(f"{scheme}{tmp_path}", SourceOptions())
    with pytest.raises(DataError, match="holds a name that is not UTF-8"):
        open_source(str(tmp_path / "dog" / os.fsdecode(b"bad\xff.png")), SourceOptions())


# Links


def test_links_to_files_and_to_folders_elsewhere_are_followed(tmp_path: Path) -> None:
    put(tmp_path, "elsewhere/deep/a.png", "pics/cat/b.png")
    (tmp_path / "pics" / "cat" / "c.png").symlink_to(tmp_path / "elsewhere" / "deep" / "a.png")
    (tmp_path / "pics" / "cow").symlink_to("cat")
    (tmp_path / "pics" / "dog").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "link").symlink_to("pics")
    for folder in ("pics", "link"):
        source = open_source(str(tmp_path / folder), SourceOptions())
        assert names(source) == ["cat/b.png", "cat/c.png", "cow/b.png", "cow/c.png", "dog/deep/a.png"]
        assert values(source) == [1, 0, 1, 0, 0]
        assert source.items[1].size == (tmp_path / "elsewhere" / "deep" / "a.png").stat().st_size


@pytest.mark.parametrize(("link", "target"), [("dog/loop", ".."), ("up", ".."), ("cat/deep/x", "../deep")])
def test_a_link_to_a_folder_that_it_lies_in_is_refused(tmp_path: Path, link: str, target: str) -> None:
    pics = tmp_path / "pics"
    put(pics, "dog/a.png", "cat/deep/b.png")
    (pics / link).symlink_to(target)
    with pytest.raises(DataError, match=rf"{pics}/{link} is a link to .*; remove the link$"):
        open_source(str(pics), SourceOptions())


def test_links_that_lead_in_a_circle_together_are_refused(tmp_path: Path) -> None:
    put(tmp_path, "pics/a/a.png", "b/b.png")
    (tmp_path / "pics" / "a" / "to-b").symlink_to(tmp_path / "b")
    (tmp_path / "b" / "to-a").symlink_to(tmp_path / "pics" / "a")
    with pytest.raises(DataError, match=r"pics/a/to-b/to-a is a link to .*; remove the link$"):
        open_source(str(tmp_path / "pics"), SourceOptions())


def test_links_to_nothing_are_rejected_by_name(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.png", "dog/b.png")
    (tmp_path / "cat" / "gone.png").symlink_to("../.git/annex/objects/none")
    (tmp_path / "dog" / "itself.jpg").symlink_to("itself.jpg")
    (tmp_path / "dog" / "notes.txt").symlink_to("none")
    source = open_source(str(tmp_path), SourceOptions())
    assert names(source) == ["cat/a.png", "dog/b.png"]
    assert labels(source) == [0, 1]
    assert source.rejected == [
        ("cat/gone.png", "a link to nothing"),
        ("dog/itself.jpg", "a link to nothing"),
    ]
    assert source.notes == ["left out what is not named like an image: .txt 1"]


def test_a_folder_of_links_to_nothing_is_refused(tmp_path: Path) -> None:
    (tmp_path / "a.png").symlink_to("none")
    message = r"no image that can be opened \(a.png: a link to nothing\); links need what they lead to"
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path), SourceOptions())


def closed(path: Path, mode: int = 0) -> None:
    path.mkdir(parents=True, exist_ok=True)
    path.chmod(mode)


def test_folders_that_may_not_be_read_are_rejected_by_name(tmp_path: Path) -> None:
    reason = "no permission to read the folder, with all that it holds"
    put(tmp_path, "set/cat/a.png", "set/dog/b.png", "set/cow/c.png", "set/dog/deep/d.png")
    (tmp_path / "set/dog/deep/e").mkdir()
    (tmp_path / "set/dog/deep/f.png").symlink_to("d.png")
    closed(tmp_path / "set/dog/deep", 0o600)  # its names may be read, nothing else
    closed(tmp_path / "set/lost+found")
    closed(tmp_path / "set/cow")
    tar(tmp_path / "tars" / "a.tar", ("a.png", picture(7)))
    closed(tmp_path / "tars/more")
    closed(tmp_path / "none/more")
    with permissions():
        source = open_source(str(tmp_path / "set"), SourceOptions())
        assert (names(source), source.classes) == (["cat/a.png", "dog/b.png"], ("cat", "dog"))
        assert source.rejected == [
            ("dog/deep/d.png", "no permission to read the file"),
            ("dog/deep/f.png", "no permission to read the file"),
            ("cow", reason),
            ("dog/deep/e", reason),
            ("lost+found", reason),
        ]
        assert source.notes == []
        source = open_source(str(tmp_path / "tars"), SourceOptions())
        assert (values(source), source.rejected) == ([7], [("more", reason)])
        with pytest.raises(DataError, match=f"none holds no images.*; more: {reason}$"):
            open_source(str(tmp_path / "none"), SourceOptions())
    for folder in ("set/dog/deep", "set/lost+found", "set/cow", "tars/more", "none/more"):
        (tmp_path / folder).chmod(0o700)  # pytest deletes them


@pytest.mark.timeout(60)
def test_pipes_sockets_and_devices_are_never_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(tmp_path, "pics/a.png")
    monkeypatch.chdir(tmp_path / "pics")  # a socket's path may have 108 bytes
    os.mkfifo("b.png")
    Path("zero.png").symlink_to("/dev/zero")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind("s.png")
    source = open_source(str(tmp_path / "pics"), SourceOptions())
    assert values(source) == [0]
    reason = "a pipe, a device or another special file"
    assert source.rejected == [(name, reason) for name in ("b.png", "s.png", "zero.png")]
    for name in ("a.tar", "a.parquet"):
        folder = tmp_path / name.replace(".", "-")
        folder.mkdir()
        os.mkfifo(folder / name)
        with pytest.raises(DataError, match=f"{name} of {folder} is {reason}; put a file in its place"):
            open_source(str(folder), SourceOptions())


def test_a_question_mark_in_a_local_path_is_part_of_it(tmp_path: Path) -> None:
    put(tmp_path, "what?/pics/a.png")
    folder = tmp_path / "what?"
    (folder / "l.jsonl").write_text('{"path": "a.png", "label": "x"}')
    options = SourceOptions(labels=str(folder / "l.jsonl"))
    assert open_source(str(folder / "pics"), options).classes == ("x",)
    tar(folder / "tars" / "a.tar", ("a.png", picture(7)))
    assert values(open_source(str(folder / "tars"), SourceOptions())) == [7]
    storage.write_bytes(storage.join(str(folder), "dest", "x"), b"")
    assert (folder / "dest" / "x").exists()


def test_a_password_in_a_uri_is_not_shown() -> None:
    assert redact("s3://key:secret@bucket/p?region=x") == "s3://bucket/p?region=x"
    assert redact("/a@b/c") == "/a@b/c"


# Tars


def tar(path: Path, *members: tuple[tarfile.TarInfo | str, bytes], kind: int = tarfile.PAX_FORMAT) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w", format=kind) as archive:
        for info, content in members:
            member = tarfile.TarInfo(info) if isinstance(info, str) else info
            if member.isreg():
                member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


@pytest.mark.parametrize("kind", [tarfile.PAX_FORMAT, tarfile.GNU_FORMAT])
def test_members_of_tars_are_grouped_by_key(tmp_path: Path, kind: int) -> None:
    long = "k" * 150
    tar(tmp_path / "s-1.tar", ("b.png", picture(7)), ("b.txt", b"x"), ("b.json", b'{"label": 3}'), kind=kind)
    tar(
        tmp_path / "s-0.tar",
        (f"{long}/a.cls", b"10\n"),
        (f"{long}/a.seg.PNG", picture(5)),
        ("README", b"x"),
        ("c.jpg", picture(6)),
        ("c.cls", b"3"),
        ("c.json", b'{"label": 4}'),
        kind=kind,
    )
    source = open_source(str(tmp_path), SourceOptions())
    assert names(source) == [f"s-0.tar/{long}/a.seg.PNG", "s-0.tar/c.jpg", "s-1.tar/b.png"]
    assert source.classes == ("3", "10")
    assert labels(source) == [1, 0, 0]
    assert values(source) == [5, 6, 7]
    assert source.rejected == []
    alone = open_source(str(tmp_path / "s-1.tar"), SourceOptions())
    assert names(alone) == ["s-1.tar/b.png"]
    assert values(alone) == [7]


def test_members_that_attack_are_refused_and_the_others_used(tmp_path: Path) -> None:
    path = tar(
        tmp_path / "a.tar",
        ("../up.png", picture(0)),
        ("/etc/absolute.png", picture(0)),
        ("x/../../y.png", picture(0)),
        ("..\\windows.png", picture(0)),
        (special("link.png", tarfile.SYMTYPE, "/etc/passwd"), b""),
        (special("hard.png", tarfile.LNKTYPE, "good.png"), b""),
        (special("device.png", tarfile.CHRTYPE), b""),
        (special("pipe.png", tarfile.FIFOTYPE), b""),
        (special("folder", tarfile.DIRTYPE), b""),
        ("two.jpg", picture(1)),
        ("two.png", picture(1)),
        ("lonely.json", b"{}"),
        ("good.png", picture(9)),
    )
    source = open_source(str(path), SourceOptions())
    assert names(source) == ["a.tar/good.png"]
    assert values(source) == [9]
    assert [tuple(rejection) for rejection in source.rejected] == [
        ("a.tar/../up.png", "unsafe name"),
        ("a.tar//etc/absolute.png", "unsafe name"),
        ("a.tar/x/../../y.png", "unsafe name"),
        ("a.tar/..\\windows.png", "unsafe name"),
        ("a.tar/link.png", "a link, not a file"),
        ("a.tar/hard.png", "a link, not a file"),
        ("a.tar/device.png", "a device or another special file"),
        ("a.tar/pipe.png", "a device or another special file"),
        ("a.tar/two.jpg", "several images under one key, the name up to its first dot: rename them"),
        ("a.tar/two.png", "several images under one key, the name up to its first dot: rename them"),
        ("a.tar/lonely", "no image under this key"),
    ]
    assert [path.name for path in tmp_path.iterdir()] == ["a.tar"]


def test_a_tar_that_is_cut_anywhere_is_reported_and_its_whole_members_used(tmp_path: Path) -> None:
    whole = tar(tmp_path / "w" / "a.tar", *((f"{n}.png", picture(n)) for n in range(4))).read_bytes()
    cut = tmp_path / "a.tar"
    block = 1024  # Each member: a header, and contents of less than a block of 512 bytes.
    for length in [*range(block, 4 * block + 512, 100), 2 * block, 3 * block, 4 * block]:
        cut.write_bytes(whole[:length])
        source = open_source(str(cut), SourceOptions())
        assert names(source) == [f"a.tar/{n}.png" for n in range(length // block)], length
        assert [rejection.path for rejection in source.rejected] == ["a.tar"]
        assert "truncated" in source.rejected[0].reason
        (damage,) = source.damaged
        assert damage.endswith(f"; used of it: {counted(length // block, 'image')}")
        assert values(source) == list(range(length // block))
    cut.write_bytes(whole)
    mended = open_source(str(cut), SourceOptions())
    assert (mended.rejected, mended.damaged) == ([], ())


def test_a_broken_header_in_the_middle_is_no_silent_end(tmp_path: Path) -> None:
    content = bytearray(tar(tmp_path / "a.tar", *((f"{n}.png", picture(n)) for n in range(4))).read_bytes())
    content[2 * 1024 + 5] ^= 1
    (tmp_path / "a.tar").write_bytes(content)
    source = open_source(str(tmp_path), SourceOptions())
    assert len(source.items) == 2
    assert source.rejected[0].reason.startswith("damaged or truncated at byte 2048")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"\x1f\x8b\x08" + bytes(600), r"is compressed \(gzip\)"),
        (b"not a tar" * 100, "hold no images .*damaged or truncated at byte 0"),
        (b"", "hold no images .*damaged or truncated"),
    ],
)
def test_what_is_no_plain_tar_is_refused(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "a.tar").write_bytes(content)
    with pytest.raises(DataError, match=message):
        open_source(str(tmp_path), SourceOptions())


def test_labels_of_a_tar_may_be_any_bytes(tmp_path: Path) -> None:
    texts = {"a.cls": b"1" * 5000, "b.json": b'{"label": "\\ud800"}', "c.cls": b"\xff"}
    for key, text in texts.items():
        tar(tmp_path / f"{key[0]}.tar", (f"{key[0]}.png", picture(1)), (key, text))
    source = open_source(str(tmp_path), SourceOptions())
    assert source.classes == ("1" * 5000, r"\ud800", "\N{REPLACEMENT CHARACTER}")
    make_plan("x", source, Decoding(8), 1.0).model_dump_json()
    tar(tmp_path / "a.tar", ("a.png", picture(1)), ("a.json", b'{"label": ' + HOSTILE.encode()))
    with pytest.raises(DataError, match=r"1 of 3 images have no label: a\.tar/a\.png"):
        open_source(str(tmp_path), SourceOptions())


def test_tars_where_some_images_lack_a_label_are_refused_but_for_no_labels(tmp_path: Path) -> None:
    tar(
        tmp_path / "a.tar", ("a.png", picture(1)), ("a.cls", b"1"), ("b.png", picture(2)), ("b.json", b"nope")
    )
    with pytest.raises(DataError, match=r"1 of 2 images have no label: a.tar/b.png; .*--no-labels"):
        open_source(str(tmp_path), SourceOptions())
    assert open_source(str(tmp_path), SourceOptions(no_labels=True)).classes is None


# Parquet


def features(**kinds: Sequence[str]) -> dict[bytes, bytes]:
    described = {name: {"names": list(listed), "_type": "ClassLabel"} for name, listed in kinds.items()}
    return {b"huggingface": json.dumps({"info": {"features": described}}).encode()}


def images_column(start: int, stop: int, *, struct_of: bool) -> Any:
    contents = [picture(n) for n in range(start, stop)]
    if struct_of:
        return pa.array([{"bytes": content, "path": f"{n}.png"} for n, content in enumerate(contents)])
    return pa.array(contents, pa.large_binary())


@pytest.mark.parametrize("struct_of", [False, True])
@pytest.mark.parametrize("group", [1, 7, 1000])
def test_rows_of_parquet_files(tmp_path: Path, struct_of: bool, group: int) -> None:
    for file, start in (("b.parquet", 40), ("a.parquet", 0)):
        columns = {"image": images_column(start, start + 40, struct_of=struct_of), "thumb": [b""] * 40}
        columns["label"] = [n % 3 for n in range(40)]
        table = pa.table(columns).replace_schema_metadata(features(label=["zebra", "ape", "cow", "none"]))
        pq.write_table(table, tmp_path / file, row_group_size=group)
    source = open_source(str(tmp_path), SourceOptions())
    assert names(source) == [f"{file}.parquet#{row}" for file in "ab" for row in range(40)]
    assert source.classes == ("zebra", "ape", "cow", "none")
    assert labels(source) == [n % 3 for _ in range(2) for n in range(40)]
    assert values(source) == list(range(80))


@pytest.mark.parametrize(
    ("classes", "second", "message"),
    [
        (["ape", "zebra"], [0, 1], "a.parquet and b.parquet name the classes of .* differently; pack"),
        (None, [0, 7], "the label 7 is none of the 2 classes that a.parquet names; pack"),
        (None, ["cow", "ape"], "the label ape is none of the 2 classes that a.parquet names; pack"),
        (["zebra", "ape"], [1, 1], None),
        (None, [1, 1], None),
    ],
)
def test_files_that_number_their_classes_differently_are_not_mixed(
    tmp_path: Path, classes: list[str] | None, second: list[Any], message: str | None
) -> None:
    for name, values_, named in (("a", [0, 1], ["zebra", "ape"]), ("b", second, classes)):
        table = pa.table({"image": [picture(1)] * 2, "label": values_})
        table = table.replace_schema_metadata(features(label=named) if named else None)
        pq.write_table(table, tmp_path / f"{name}.parquet")
    if message is None:
        source = open_source(str(tmp_path), SourceOptions())
        assert (source.classes, labels(source)) == (("zebra", "ape"), [0, 1, *second])
    else:
        with pytest.raises(DataError, match=message):
            open_source(str(tmp_path), SourceOptions())


def test_columns_by_name_and_text_labels(tmp_path: Path) -> None:
    pixels = images_column(0, 3, struct_of=False)
    table = pa.table({"left": pixels, "right": pixels, "kind": ["b", "a", "b"], "label": [0, 1, 2]})
    pq.write_table(table, tmp_path / "a.parquet")
    with pytest.raises(DataError, match="choose --image-column from left, right"):
        open_source(str(tmp_path), SourceOptions())
    source = open_source(str(tmp_path), SourceOptions(image_column="right", label_column="kind"))
    assert source.classes == ("a", "b")
    assert labels(source) == [1, 0, 1]
    for options, message in (
        (SourceOptions(image_column="kind"), "has no column kind with encoded images; choose"),
        (SourceOptions(image_column="left", label_column="x"), "has no column x; its columns: left, right"),
        (SourceOptions(image_column="left", label_column="right"), "labels in right are large_binary"),
        (SourceOptions(labels="l.csv"), "--labels is for folders of images"),
        (SourceOptions(labels="l.csv", no_labels=True), "exclude each other"),
    ):
        with pytest.raises(DataError, match=message):
            open_source(str(tmp_path), options)


def test_labels_and_names_that_cannot_be_read_are_refused_or_passed_over(tmp_path: Path) -> None:
    offsets, content = pa.py_buffer(struct.pack("<ii", 0, 2)), pa.py_buffer(b"\xff\xfe")
    text = pa.Array.from_buffers(pa.string(), 1, [None, offsets, content])
    pq.write_table(pa.table({"image": [picture(1)], "label": text}), tmp_path / "a.parquet")
    with pytest.raises(DataError, match=r"a.parquet: a label in label is not UTF-8 text; use --no-labels"):
        open_source(str(tmp_path), SourceOptions())
    table = pa.table({"image": [picture(1)], "label": [0]})
    for metadata, classes in (
        ({b"huggingface": HOSTILE.encode()}, ("0",)),
        (features(label=["half \ud800"]), (r"half \ud800",)),
    ):
        pq.write_table(table.replace_schema_metadata(metadata), tmp_path / "a.parquet")
        source = open_source(str(tmp_path), SourceOptions())
        assert source.classes == classes
        make_plan("x", source, Decoding(8), 1.0).model_dump_json()


def test_rows_without_bytes_are_rejected_and_secret_labels_are_none(tmp_path: Path) -> None:
    cells = [{"bytes": picture(1), "path": "a"}, {"bytes": None, "path": "b"}]
    pq.write_table(pa.table({"image": cells, "label": [-1, -1]}), tmp_path / "a.parquet")
    source = open_source(str(tmp_path), SourceOptions())
    assert source.classes is None
    read = source.origin.open()
    assert read(source.items[0]) == picture(1)
    with pytest.raises(RejectedError, match="no bytes in this row"):
        read(source.items[1])


@pytest.mark.parametrize("compression", ["none", "snappy"])
@pytest.mark.parametrize("kept", ["on a disk", "in a bucket"])
def test_rows_of_a_damaged_part_are_rejected_and_none_gets_anothers_image(
    kept: str, compression: str, bucket: str, tmp_path: Path
) -> None:
    storage.configure(StorageOptions(timeout_s=3))
    folder_uri = bucket if kept == "in a bucket" else str(tmp_path)
    numbers = Random(0)
    pictures = [str(row).encode() + numbers.randbytes(1500) for row in range(400)]
    buffer = io.BytesIO()
    pq.write_table(pa.table({"image": pictures}), buffer, row_group_size=200, compression=compression)
    storage.write_bytes(f"{folder_uri}/a.parquet", buffer.getvalue())
    source = open_source(folder_uri, SourceOptions())
    content = bytearray(buffer.getvalue())
    middle = len(content) // 4  # of the first of two row groups
    content[middle : middle + 4000] = b"\xff" * 4000
    storage.write_bytes(f"{folder_uri}/a.parquet", bytes(content))
    read = source.origin.open()
    rejected = []
    for item, picture in zip(source.items, pictures, strict=True):
        try:
            assert read(item) == picture
        except RejectedError as error:
            rejected.append(str(error))
    assert 1 < len(rejected) <= 200
    assert all(said.startswith("damaged Parquet: ") for said in rejected)


def test_a_row_group_is_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pictures = [str(row).encode() * 4000 for row in range(200)]
    options: dict[str, Any] = {"compression": "none", "use_dictionary": False, "data_page_size": 2**16}
    options["write_batch_size"] = 8  # rows after which a page may end
    pq.write_table(pa.table({"image": pictures}), tmp_path / "a.parquet", **options)
    source, sizes, whole = open_source(str(tmp_path), SourceOptions()), list[int](), SteadyFile.read

    def noting(file: SteadyFile, size: int = -1) -> bytes:
        sizes.append(size)
        return whole(file, size)

    monkeypatch.setattr(SteadyFile, "read", noting)
    monkeypatch.setattr(tables, "READ_BYTES", 2**16)
    read = source.origin.open()
    assert [read(item) for item in source.items] == pictures
    assert max(sizes) < sum(map(len, pictures)) / 4


def test_parquet_files_that_hold_no_images_are_refused(tmp_path: Path) -> None:
    file = tmp_path / "a.parquet"
    file.write_bytes(b"PAR1 and nothing else")
    with pytest.raises(DataError, match=r"a.parquet .* cannot be read as Parquet"):
        open_source(str(tmp_path), SourceOptions())
    pq.write_table(pa.table({"x": [1]}), file)
    with pytest.raises(DataError, match=r"no column holds encoded images \(its columns: x\)"):
        open_source(str(tmp_path), SourceOptions())
    pq.write_table(pa.table({"image": pa.array([], pa.binary())}), file)
    with pytest.raises(DataError, match="hold no rows"):
        open_source(str(tmp_path), SourceOptions())


@pytest.mark.parametrize(
    "options", [SourceOptions(image_column="x"), SourceOptions(label_column="x", no_labels=True)]
)
def test_columns_are_for_parquet_files(tmp_path: Path, options: SourceOptions) -> None:
    put(tmp_path, "pics/a.png")
    tar(tmp_path / "tars" / "a.tar", ("a.png", picture(0)))
    for uri in (str(tmp_path / "pics"), str(tmp_path / "tars"), "torchvision://CIFAR10"):
        with pytest.raises(DataError, match=r"-column is for Parquet files.*; leave it out"):
            open_source(uri, options)


# Torchvision


def idx(array: Any) -> bytes:
    """Return an array in the format of MNIST's files."""
    header = struct.pack(f">I{array.ndim}I", 0x800 + array.ndim, *array.shape)
    return header + bytes(array.tobytes())


def test_a_set_of_torchvision_keeps_its_order_and_numbering(tmp_path: Path) -> None:
    raw = tmp_path / "FashionMNIST" / "raw"
    raw.mkdir(parents=True)
    for part, count in (("train", 5), ("t10k", 3)):
        pixels = np.repeat(np.arange(count, dtype=np.uint8), 28 * 28).reshape(count, 28, 28)
        (raw / f"{part}-images-idx3-ubyte").write_bytes(idx(pixels))
        (raw / f"{part}-labels-idx1-ubyte").write_bytes(idx(np.arange(9, 9 - count, -1, dtype=np.uint8)))
    options = SourceOptions(root=str(tmp_path))
    source = open_source("torchvision://FashionMNIST", options)
    assert source.classes is not None
    assert source.classes[:2] == ("T-shirt/top", "Trouser")
    assert labels(source) == [9, 8, 7, 6, 5]
    assert values(source) == [0, 1, 2, 3, 4]
    test = open_source("torchvision://FashionMNIST?split=test", options)
    assert names(test) == ["FashionMNIST#0", "FashionMNIST#1", "FashionMNIST#2"]


def test_what_torchvision_leaves_undecoded_is_rejected_or_converted_by_itself(tmp_path: Path) -> None:
    folder = tmp_path / "caltech256" / "256_ObjectCategories" / "001.ak47"
    folder.mkdir(parents=True)
    Image.new("CMYK", (64, 64)).save(folder / "001_0002.jpg")
    (folder / "001_0001.jpg").write_bytes((folder / "001_0002.jpg").read_bytes()[:-20])
    source = open_source("torchvision://Caltech256", SourceOptions(root=str(tmp_path)))
    read = source.origin.open()
    with pytest.raises(RejectedError, match="damaged: "):
        read(source.items[0])
    assert decode(read(source.items[1]), Decoding(8)).pixels.min() > 250


def test_parts_of_a_set_that_list_alike_are_different_sources() -> None:
    """As DTD's are: as many images in each, of the same classes."""
    source = Source(Files("unused"), [Item("DTD#0", "DTD", 0, 0, -1)], None, [], [])
    uris = [f"torchvision://DTD?split={part}" for part in ("train", "val")]
    assert [make_plan(uri, source, Decoding(8), 1.0).source for uri in uris] == uris


@pytest.mark.parametrize(
    ("uri", "message"),
    [
        ("torchvision://cifar-10", "did you mean CIFAR10?"),
        ("torchvision://[", r"there is no set '\[' from torchvision"),
        ("torchvision://os", "it knows CIFAR10, CIFAR100, Caltech101"),
        ("torchvision://CIFAR10?split=val", "the splits of CIFAR10 are train and test, not val"),
        ("torchvision://CIFAR10?root=/etc", "CIFAR10 takes only [?]split="),
        ("torchvision://EuroSAT?split=train", "EuroSAT takes no parameters"),
        (
            "torchvision://CIFAR10",
            "cannot be opened in .* give its folder with --root, or fetch it with --download",
        ),
        ("torchvision://Flowers102?split=x", "cannot be opened in"),
    ],
)
def test_what_torchvision_does_not_have_is_refused(tmp_path: Path, uri: str, message: str) -> None:
    with pytest.raises(DataError, match=message):
        open_source(uri, SourceOptions(root=str(tmp_path)))
