"""Sources as people have them: joined tars, hub clones, StyleGAN's folders, names that look the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import botocore.session
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from gan_dist import cli
from gan_dist.core import storage
from gan_dist.core.errors import DataError
from gan_dist.data.packing.sources import open_source
from gan_dist.data.packing.sources.items import SourceOptions
from tests.unit.core.test_storage import use
from tests.unit.data.packing.test_sources import labels, names, picture, put, tar, values

ACUTE = "e\u0301"
"""An e and a combining accent: the form in which some file systems write it."""


# Tars


@pytest.mark.parametrize("zeros", [0, 512, 3 * 2**20])
def test_tars_one_after_another_are_read_to_the_last(tmp_path: Path, zeros: int) -> None:
    first = tar(tmp_path / "x" / "a.tar", *((f"{n}.png", picture(n)) for n in range(5))).read_bytes()
    second = tar(tmp_path / "x" / "b.tar", *((f"{n}.png", picture(n + 5)) for n in range(5))).read_bytes()
    (tmp_path / "ab.tar").write_bytes(first + bytes(zeros) + second)
    source = open_source(str(tmp_path / "ab.tar"), SourceOptions())
    assert values(source) == list(range(10))
    assert (source.rejected, source.damaged) == ([], ())


@pytest.mark.parametrize("rest", [b"x", b"what follows is no tar" * 100])
def test_bytes_after_the_end_of_a_tar_are_reported(tmp_path: Path, rest: bytes) -> None:
    whole = tar(tmp_path / "a.tar", ("a.png", picture(1))).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole + rest)
    source = open_source(str(tmp_path), SourceOptions())
    assert names(source) == ["a.tar/a.png"]
    assert f"a.tar is damaged or truncated at byte {len(whole)} " in source.damaged[0]


def dotted(path: Path) -> Path:
    good = ((f"g{n}.png", picture(n)) for n in range(100))
    return tar(path, *good, *((f"2024.{n:03}.png", picture(n % 256)) for n in range(300)))


def test_every_image_of_a_shared_key_is_counted_and_named(tmp_path: Path) -> None:
    source = open_source(str(dotted(tmp_path / "a.tar")), SourceOptions())
    assert len(source.items) == 100
    assert [rejection.path for rejection in source.rejected] == [f"a.tar/2024.{n:03}.png" for n in range(300)]
    (reason,) = {rejection.reason for rejection in source.rejected}
    assert reason == "several images under one key, the name up to its first dot: rename them"


def test_a_dry_run_foretells_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["pack", str(dotted(tmp_path / "a.tar")), str(tmp_path / "dest"), "--resolution", "8"]
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, "--dry-run"])
    assert caught.value.code == 2
    assert "300 of 400 images cannot be used so far" in capsys.readouterr().err
    cli.app([*command, "--dry-run", "--max-bad", "75%", "--json"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    reason = "several images under one key, the name up to its first dot: rename them"
    assert f"  300: {reason}" in lines
    shown = json.loads(lines[-1])
    assert (shown["images"], shown["quarantined"], shown["reasons"]) == (100, 300, {reason: 300})


def test_files_beside_tars_are_named_as_left_out(tmp_path: Path) -> None:
    tar(tmp_path / "a.tar", ("a.png", picture(1)))
    (tmp_path / "b.tar.gz").touch()
    assert open_source(str(tmp_path), SourceOptions()).notes == [
        "left out what is not named like a tar: .gz 1"
    ]


# Parquet


def strings(kind: Any) -> Any:
    return pa.array(["dog", "cat", "dog"]).cast(kind)


@pytest.mark.parametrize(
    "column",
    [
        strings(pa.large_string()),
        strings(pa.string_view()),
        strings(pa.string()).dictionary_encode(),
        pa.array(["dog", "cat", "dog"], pa.large_string()).dictionary_encode(),
    ],
    ids=str,
)
def test_text_labels_of_every_representation(tmp_path: Path, column: Any) -> None:
    pq.write_table(
        pa.table({"image": [picture(n) for n in range(3)], "label": column}), tmp_path / "a.parquet"
    )
    source = open_source(str(tmp_path), SourceOptions())
    assert source.classes == ("cat", "dog")
    assert labels(source) == [1, 0, 1]


@pytest.mark.parametrize(
    "column",
    [pa.array([10, 9, 10], pa.uint8()), pa.array([10, 9, 10]).dictionary_encode()],
    ids=["uint8", "dictionary"],
)
def test_whole_numbers_of_every_representation(tmp_path: Path, column: Any) -> None:
    pq.write_table(
        pa.table({"image": [picture(n) for n in range(3)], "label": column}), tmp_path / "a.parquet"
    )
    source = open_source(str(tmp_path), SourceOptions())
    assert source.classes == ("9", "10")
    assert labels(source) == [1, 0, 1]


def test_labels_that_are_all_missing_are_none(tmp_path: Path) -> None:
    pq.write_table(pa.table({"image": [picture(0)], "label": pa.nulls(1)}), tmp_path / "a.parquet")
    assert open_source(str(tmp_path), SourceOptions()).classes is None


@pytest.mark.parametrize("kind", [pa.binary(), pa.large_binary(), pa.binary_view(), "dictionary", "struct"])
def test_images_of_every_representation_of_bytes(tmp_path: Path, kind: Any) -> None:
    contents = [picture(n) for n in (3, 1, 2)]
    if kind == "dictionary":
        column = pa.array(contents).dictionary_encode()
    elif kind == "struct":
        column = pa.StructArray.from_arrays([pa.array(contents).dictionary_encode()], ["bytes"])
    else:
        column = pa.array(contents, kind)
    pq.write_table(pa.table({"image": column}), tmp_path / "a.parquet")
    assert values(open_source(str(tmp_path), SourceOptions())) == [3, 1, 2]


def test_messages_about_a_users_file_are_cut(tmp_path: Path) -> None:
    put(tmp_path, "pics/a.png")
    rubbish = tmp_path / "l.csv"
    wide = {f"column {n}": [n] for n in range(3000)}
    (tmp_path / "wide").mkdir()
    pq.write_table(pa.table(wide), tmp_path / "wide" / "a.parquet")
    with pytest.raises(DataError) as caught:
        open_source(str(tmp_path / "wide"), SourceOptions())
    assert len(str(caught.value)) < 600
    for text in (
        "x" * 100_000 + "," + "y" * 100_000,
        "path,label\n" + "x" * 100_000 + ",1\n",
        f"path,label\na.png,{'1' * 100_000}\na.png,2\n",
    ):
        rubbish.write_text(text)
        with pytest.raises(DataError) as caught:
            open_source(str(tmp_path / "pics"), SourceOptions(labels=str(rubbish)))
        assert "... (" in str(caught.value)
        assert len(str(caught.value)) < 1200


# Labels


@pytest.mark.parametrize("other", [" cat", "cat\u00a0", "cat\u200b", "\ufeffcat"])
def test_labels_that_differ_by_invisible_characters_are_one_class(tmp_path: Path, other: str) -> None:
    put(tmp_path, "a.png", "b.png", "c.png")
    listing = tmp_path / "l.csv"
    listing.write_text(f"path, label\na.png,cat\nb.png,{other}\nc.png,dog\n")
    source = open_source(str(tmp_path), SourceOptions(labels=str(listing)))
    assert source.classes == ("cat", "dog")
    assert labels(source) == [0, 0, 1]
    assert source.notes == ["classes whose names look the same are one: cat"]


def test_a_class_written_in_one_way_keeps_its_name_and_number(tmp_path: Path) -> None:
    family = "\U0001f468\u200d\U0001f469"
    put(tmp_path, f"{family}/a.png", "b/b.png", f"{ACUTE}/c.png")
    source = open_source(str(tmp_path), SourceOptions())
    assert source.classes == ("b", ACUTE, family)
    assert source.notes == []


def test_folders_whose_names_look_the_same_are_one_class(tmp_path: Path) -> None:
    put(tmp_path, "\u00e9/a.png", f"{ACUTE}/b.png", "z/c.png")
    source = open_source(str(tmp_path), SourceOptions())
    assert source.classes == ("z", "\u00e9")
    assert sorted(labels(source)) == [0, 1, 1]


@pytest.mark.parametrize("name", [f"caf{ACUTE}.png", "x/caf\u00e9.png"])
def test_a_listed_name_in_another_form_of_unicode_is_the_file(tmp_path: Path, name: str) -> None:
    put(tmp_path, name, "b.png")
    other = name.replace(ACUTE, "\u00e9") if ACUTE in name else name.replace("\u00e9", ACUTE)
    listing = tmp_path / "l.jsonl"
    lines = [{"path": other, "label": "x"}, {"path": "b.png", "label": "y"}]
    listing.write_text("\n".join(map(json.dumps, lines)))
    source = open_source(str(tmp_path), SourceOptions(labels=str(listing)))
    assert {item.name: item.label for item in source.items} == {name: 0, "b.png": 1}


def test_files_that_look_the_same_are_told_apart_by_their_exact_names(tmp_path: Path) -> None:
    put(tmp_path, "\u00e9.png", f"{ACUTE}.png")
    (tmp_path / "l.csv").write_text(f"path,label\n\u00e9.png,1\n{ACUTE}.png,2\n")
    source = open_source(str(tmp_path), SourceOptions(labels=str(tmp_path / "l.csv")))
    assert {item.name: item.label for item in source.items} == {"\u00e9.png": 0, f"{ACUTE}.png": 1}


def test_a_class_folder_without_images_is_named(tmp_path: Path) -> None:
    put(tmp_path, "ant/a.png", "cow/b.png")
    (tmp_path / "bee").mkdir()
    (tmp_path / "cow" / "deep").mkdir()
    (tmp_path / ".git").mkdir()
    source = open_source(str(tmp_path), SourceOptions())
    assert source.classes == ("ant", "cow")
    assert source.notes == ["folders without an image are no classes: bee"]
    assert open_source(str(tmp_path), SourceOptions(no_labels=True)).notes == []


# StyleGAN


def stylegan(folder: Path, listed: object) -> str:
    put(folder, "00000/img00000000.png", "00000/img00000001.png", "00001/img00001000.png")
    (folder / "dataset.json").write_text(json.dumps({"labels": listed}))
    return str(folder)


NUMBERED = [["00000/img00000000.png", 6], ["00000/img00000001.png", 10], ["00001/img00001000.png", 6]]


def test_a_folder_of_stylegans_has_the_labels_of_its_list(tmp_path: Path) -> None:
    uri = stylegan(tmp_path, NUMBERED)
    for options in (SourceOptions(), SourceOptions(labels=f"{uri}/dataset.json")):
        source = open_source(uri, options)
        assert source.classes == ("6", "10")
        assert labels(source) == [0, 1, 0]
    assert open_source(uri, SourceOptions()).notes == ["the labels are those of dataset.json"]


@pytest.mark.parametrize("listed", [None, []])
def test_a_folder_of_stylegans_without_labels_has_no_classes(tmp_path: Path, listed: object) -> None:
    uri = stylegan(tmp_path, listed)
    source = open_source(uri, SourceOptions())
    assert source.classes is None
    assert source.notes == ["no labels: dataset.json gives none, and its folders are no classes"]
    with pytest.raises(DataError, match=r"dataset.json holds no list such as"):
        open_source(uri, SourceOptions(labels=f"{uri}/dataset.json"))


def test_a_list_of_stylegans_that_does_not_fit_is_refused_briefly(tmp_path: Path) -> None:
    uri = stylegan(tmp_path, [[path, [0.0] * 100_000] for path, _ in NUMBERED])
    with pytest.raises(DataError, match=r"dataset.json:1 needs a value for both .* or a number") as caught:
        open_source(uri, SourceOptions())
    assert len(str(caught.value)) < 500
    with pytest.raises(DataError, match=r"gives no label for 1 of 3 images: 00001/img00001000.png"):
        open_source(stylegan(tmp_path, NUMBERED[:2]), SourceOptions())


def test_another_file_of_that_name_is_passed_over(tmp_path: Path) -> None:
    uri = stylegan(tmp_path, ["cat", "dog"])
    assert open_source(uri, SourceOptions()).classes == ("00000", "00001")
    assert open_source(f"{uri}/00000/img00000000.png", SourceOptions()).classes is None


# Hugging Face's ImageFolder


def image_folder(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    put(folder, "cat/a.png", "cat/b.png", "c.png")
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), folder / name)
    elif name.endswith(".csv"):
        lines = [
            ",".join(rows[0]),
            *(",".join("" if cell is None else str(cell) for cell in row.values()) for row in rows),
        ]
        (folder / name).write_text("\n".join(lines))
    else:
        (folder / name).write_text("\n".join(map(json.dumps, rows)))
    return str(folder)


def rows_of(**labels: object) -> list[dict[str, Any]]:
    paths = {"a": "cat/a.png", "b": "./cat/b.png", "c": "c.png", "d": "d.png"}
    return [{"file_name": paths[key], "text": "t", "label": label} for key, label in labels.items()]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
def test_the_labels_of_an_image_folder_win_over_its_folders(tmp_path: Path, name: str) -> None:
    uri = image_folder(tmp_path, name, rows_of(c=10, a=9, b=10))
    source = open_source(uri, SourceOptions())
    assert names(source) == ["c.png", "cat/a.png", "cat/b.png"]
    assert (source.classes, labels(source)) == (("9", "10"), [1, 0, 1])
    assert source.notes == [f"the labels are those of {name}"]
    assert open_source(uri, SourceOptions(no_labels=True)).classes is None
    listed = open_source(uri, SourceOptions(labels=str(tmp_path / name)))
    assert (listed.classes, labels(listed)) == (source.classes, labels(source))


def test_another_column_of_labels_is_named(tmp_path: Path) -> None:
    rows = [
        {"file_name": row["file_name"], "kind": "x", "hue": row["label"]} for row in rows_of(a=1, b=2, c=1)
    ]
    uri = image_folder(tmp_path, "metadata.csv", rows)
    source = open_source(uri, SourceOptions(label_column="hue"))
    assert (source.classes, labels(source)) == (("1", "2"), [0, 0, 1])
    with pytest.raises(DataError, match=r"no labels in a column x; its columns: file_name, kind, hue"):
        open_source(uri, SourceOptions(label_column="x"))
    with pytest.raises(DataError, match=r"beside its folders of classes: c\.png"):
        open_source(uri, SourceOptions())
    (tmp_path / "c.png").unlink()
    (tmp_path / "metadata.csv").write_text("file_name,text\ncat/a.png,a cat\ncat/b.png,two\n")
    source = open_source(uri, SourceOptions())
    assert source.classes == ("cat",)
    passed = "metadata.csv is passed over: no labels in a column label (its columns: file_name, text)"
    assert source.notes == [passed]


@pytest.mark.parametrize("name", ["metadata.csv", "metadata.jsonl", "metadata.parquet"])
@pytest.mark.parametrize(
    ("listed", "message"),
    [
        (
            {"a": 1, "b": 2, "c": 1, "d": 1},
            "lists 1 image that the source does not hold: d.png; paths are relative",
        ),
        ({"a": 1, "b": 2}, "gives no label for 1 of 3 images: c.png; add them"),
        ({"a": 1, "b": None, "c": 2}, ":[23] needs a value for both path and label, text or a number"),
    ],
)
def test_an_image_folder_whose_metadata_does_not_fit_is_refused(
    tmp_path: Path, name: str, listed: dict[str, object], message: str
) -> None:
    with pytest.raises(DataError, match=message):
        open_source(image_folder(tmp_path, name, rows_of(**listed)), SourceOptions())


def test_metadata_that_is_rubbish_is_refused_or_passed_over(tmp_path: Path) -> None:
    put(tmp_path, "cat/a.png", "dog/b.png")
    for name, content, message in (
        ("metadata.csv", b"\xff\xfe", "metadata.csv is not UTF-8 text"),
        ("metadata.jsonl", b"[1]", 'metadata.jsonl:1 is not an object like {"path"'),
        ("metadata.parquet", b"PAR1", "metadata.parquet cannot be read as Parquet"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message):
            open_source(str(tmp_path), SourceOptions())
        (tmp_path / name).unlink()
    (tmp_path / "metadata.csv").write_text("name,size\nx,3\n")
    source = open_source(str(tmp_path), SourceOptions())
    assert source.classes == ("cat", "dog")
    assert source.notes == ["metadata.csv is passed over: no column file_name (its columns: name, size)"]


def test_each_split_of_an_image_folder_has_its_metadata(tmp_path: Path) -> None:
    for start, split in enumerate(("train", "test")):
        put(tmp_path / split, *(f"{n}.png" for n in range(start, start + 2)))
        rows = [{"file_name": f"{n}.png", "label": f"k{n}"} for n in range(start, start + 2)]
        (tmp_path / split / "metadata.jsonl").write_text("\n".join(map(json.dumps, rows)))
    source = open_source(str(tmp_path), SourceOptions())
    assert names(source) == ["train/0.png", "train/1.png"]
    assert source.classes == ("k0", "k1")
    assert open_source(str(tmp_path), SourceOptions(split="test")).classes == ("k1", "k2")
    mixed = open_source(str(tmp_path), SourceOptions(split="all"))
    assert (mixed.classes, labels(mixed)) == (("k0", "k1", "k2"), [1, 2, 0, 1])


# Splits


def hub_clone(folder: Path) -> str:
    for start, file in enumerate(("data/train-00000-of-00001", "data/test-00000-of-00001")):
        path = folder / f"{file}.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pq.write_table(pa.table({"image": [picture(start)]}), path)
    return str(folder)


def test_one_split_of_a_hub_clone_is_used_and_said(tmp_path: Path) -> None:
    uri = hub_clone(tmp_path)
    source = open_source(uri, SourceOptions())
    assert values(source) == [0]
    note = "used the split train of test, train; --split chooses another, --split all mixes them"
    assert source.notes == [note]
    assert values(open_source(uri, SourceOptions(split="test"))) == [1]
    assert values(open_source(uri, SourceOptions(split="all"))) == [1, 0]
    with pytest.raises(DataError, match="holds the splits test, train, not val; choose one with --split"):
        open_source(uri, SourceOptions(split="val"))


def test_splits_without_train_are_asked_for(tmp_path: Path) -> None:
    for name in ("dev-0.tar", "test-0.tar"):
        tar(tmp_path / name, ("a.png", picture(1)))
    with pytest.raises(DataError, match="holds the splits dev, test; choose one with --split, or mix"):
        open_source(str(tmp_path), SourceOptions())
    assert len(open_source(str(tmp_path), SourceOptions(split="all")).items) == 2
    tar(tmp_path / "x" / "a.tar", ("a.png", picture(1)))
    with pytest.raises(DataError, match="has no files named by splits, not dev; leave --split out"):
        open_source(str(tmp_path / "x"), SourceOptions(split="dev"))


def test_folders_of_splits_are_no_classes(tmp_path: Path) -> None:
    put(tmp_path, "train/cat/a.png", "train/dog/b.png", "test/cat/c.png", "test/emu/d.png")
    (tmp_path / "train/bee").mkdir()
    source = open_source(str(tmp_path), SourceOptions())
    assert names(source) == ["train/cat/a.png", "train/dog/b.png"]
    assert source.classes == ("cat", "dog")
    assert source.notes[0] == "folders without an image are no classes: bee"
    mixed = open_source(str(tmp_path), SourceOptions(split="all"))
    assert (mixed.classes, labels(mixed)) == (("cat", "dog", "emu"), [0, 2, 0, 1])


def test_a_class_that_is_named_like_a_split_is_a_class(tmp_path: Path) -> None:
    put(tmp_path, "train/a.png", "test/b.png", "plane/c.png")
    source = open_source(str(tmp_path), SourceOptions())
    assert source.classes == ("plane", "test", "train")
    assert source.notes == []


# Stores


def test_keys_that_differ_by_slashes_are_packed_once_and_named(
    backend: str, bucket: str, s3_url: str
) -> None:
    use(backend)
    storage.write_bytes(f"{bucket}/x/a/1.png", picture(1))
    storage.write_bytes(f"{bucket}/x/a/2.png", picture(2))
    client = botocore.session.Session().create_client("s3", endpoint_url=s3_url, region_name="us-east-1")
    for key in ("x/a//2.png", "x//a/2.png"):
        client.put_object(Bucket=bucket.removeprefix("s3://"), Key=key, Body=picture(3) + b"longer")
    source = open_source(f"{bucket}/x", SourceOptions())
    assert names(source) == ["a/1.png", "a/2.png"]
    assert values(source) == [1, 2]
    assert len(source.rejected) == 2
    assert {odd.reason.partition(",")[0] for odd in source.rejected} == {
        "named by a key with slashes in a row"
    }
