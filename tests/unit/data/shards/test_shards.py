"""The shard format: small, exact, and never silently wrong."""

from __future__ import annotations

import hashlib
import json
import multiprocessing
import os
import pickle
import shutil
from collections.abc import Callable
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_dist.core import storage
from gan_dist.core.errors import DataError, GanDistError
from gan_dist.data.batches.readers import read_all, read_slices
from gan_dist.data.order import GroupSlice
from gan_dist.data.shards import row_group
from gan_dist.data.shards.manifest import MANIFEST
from gan_dist.data.shards.row_group import StoreFile
from gan_dist.data.shards.rows import Rows, rows_table, table_rows
from gan_dist.data.shards.shard_set import FETCHES, ShardSet, encode_shard, write_set
from gan_dist.data.shards.verify import verify_set

GROUP = 24
CLASSES = tuple("0123456789")
FIRST, SECOND = "shard-00000.parquet", "shard-00001.parquet"


def random_rows(count: int, size: int, seed: int = 0, *, labelled: bool = True) -> Rows:
    generator = np.random.default_rng(seed)
    pixels = generator.integers(0, 256, (count, size), dtype=np.uint8)
    return Rows(pixels, generator.integers(0, len(CLASSES), count) if labelled else None)


def assert_same(a: Rows, b: Rows) -> None:
    np.testing.assert_array_equal(a.pixels, b.pixels)
    assert (a.labels is None) == (b.labels is None)
    if a.labels is not None and b.labels is not None:
        np.testing.assert_array_equal(a.labels, b.labels)


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    """Two shards of 4x8x3, of three and two row groups."""
    shards = iter([random_rows(3 * GROUP, 96), random_rows(2 * GROUP, 96, seed=1)])
    write_set(str(tmp_path / "set"), shards, group_rows=GROUP, height=4, width=8, channels=3, classes=CLASSES)
    return tmp_path / "set"


def edit_manifest(folder: Path, edit: Callable[[dict[str, Any]], object]) -> None:
    manifest = json.loads((folder / MANIFEST).read_text())
    edit(manifest)
    (folder / MANIFEST).write_text(json.dumps(manifest))


def edit_first_shard(folder: Path, **fields: object) -> None:
    edit_manifest(folder, lambda manifest: manifest["shards"][0].update(fields))


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 70), min_size=1, max_size=4),
    group_rows=st.integers(1, 80),
    shape=st.tuples(st.integers(1, 9), st.integers(1, 9), st.sampled_from([1, 3])),
    labelled=st.booleans(),
)
def test_what_was_written_is_read(
    tmp_path_factory: pytest.TempPathFactory,
    sizes: list[int],
    group_rows: int,
    shape: tuple[int, int, int],
    labelled: bool,
) -> None:
    folder = tmp_path_factory.mktemp("round-trip")
    height, width, channels = shape
    parts = [
        random_rows(count, height * width * channels, seed, labelled=labelled)
        for seed, count in enumerate(sizes)
    ]
    written = write_set(
        str(folder),
        iter(parts),
        group_rows=group_rows,
        height=height,
        width=width,
        channels=channels,
        classes=CLASSES if labelled else None,
        source="a test",
    )
    images = ShardSet(str(folder))
    assert images.manifest == written == verify_set(str(folder))
    assert images.manifest.count == sum(sizes) == sum(images.group_rows)
    assert max(images.group_rows) <= group_rows
    assert_same(read_all(images), Rows.concatenate(parts))


def test_files_are_hardly_larger_than_the_pixels(tmp_path: Path) -> None:
    rows = random_rows(4096, 64 * 64 * 3)
    manifest = write_set(
        str(tmp_path), iter([rows]), group_rows=1024, height=64, width=64, channels=3, classes=CLASSES
    )
    on_disk = sum(file.stat().st_size for file in tmp_path.iterdir())
    assert on_disk <= 1.01 * rows.pixels.nbytes
    assert manifest.shards[0].bytes == (tmp_path / FIRST).stat().st_size
    assert_same(read_all(ShardSet(str(tmp_path))), rows)


def test_the_manifest_tells_each_files_size_and_hash(packed: Path) -> None:
    for shard in ShardSet(str(packed)).manifest.shards:
        content = (packed / shard.file).read_bytes()
        assert (shard.bytes, shard.sha256) == (len(content), hashlib.sha256(content).hexdigest())


def test_the_same_images_give_the_same_bytes(packed: Path) -> None:
    assert (packed / FIRST).read_bytes() == encode_shard(random_rows(3 * GROUP, 96), GROUP)


def test_the_fingerprint_tells_sets_apart(packed: Path) -> None:
    manifest = ShardSet(str(packed)).manifest
    assert ShardSet(str(packed)).manifest.fingerprint() == manifest.fingerprint()
    swapped = manifest.model_copy(update={"shards": manifest.shards[::-1]})
    assert swapped.fingerprint() != manifest.fingerprint()
    shard = manifest.shards[0].model_copy(update={"sha256": "0" * 64})
    other = manifest.model_copy(update={"shards": (shard, *manifest.shards[1:])})
    assert other.fingerprint() != manifest.fingerprint()


# Damage


def damage(content: bytes, generator: np.random.Generator) -> bytes:
    """Some damage to a file: half of the places are in the footer, where no page's checksum reaches."""
    data = bytearray(content)
    size, footer = len(data), 1500
    at = int(
        generator.integers(size - footer, size) if generator.random() < 0.5 else generator.integers(size)
    )
    length = int(generator.integers(1, 40))
    kind = generator.integers(5)
    if kind == 0:
        data[at] ^= int(generator.integers(1, 256))
    elif kind == 1:
        data[at] ^= 1 << int(generator.integers(8))
    elif kind == 2:
        del data[at:]
    elif kind == 3:
        data[at : at + length] = bytes(len(data[at : at + length]))
    else:
        other = int(generator.integers(size - length))
        at = min(at, size - length)
        data[at : at + length], data[other : other + length] = (
            data[other : other + length],
            data[at : at + length],
        )
    return bytes(data)


def named(folder: Path, whole: Rows) -> bool:
    """Tell whether reading names the first shard; what is read without an error is exact."""
    rows, message = None, ""
    try:
        rows = read_all(ShardSet(str(folder)))
    except DataError as error:
        message = str(error)
    if rows is None:
        assert FIRST in message
        assert SECOND not in message
        return True
    # Only bytes that nobody reads were hit: the writer's name, or what the footer says of values' places.
    assert_same(rows, whole)
    with pytest.raises(DataError, match=FIRST):
        verify_set(str(folder))
    return False


def read_damaged(packed: Path, unlisted: Path, whole: Rows, seed: int) -> None:
    """Damage the first shard in 250 ways, in two sets; exit with an error where one goes unnoticed."""
    info = ShardSet(str(packed)).manifest.shards[0]
    content = (packed / FIRST).read_bytes()
    generator = np.random.default_rng(seed)
    done = found = found_by_footer = 0
    while done < 250:
        damaged = damage(content, generator)
        if damaged == content:
            continue
        for folder in (packed, unlisted):
            (folder / FIRST).write_bytes(damaged)
        assert hashlib.sha256(damaged).hexdigest() != info.sha256
        found += named(packed, whole)
        found_by_footer += named(unlisted, whole)
        done += 1
    assert found > 150  # half of the damages are to the footer, which is not read here
    assert found_by_footer > found
    for folder in (packed, unlisted):
        (folder / FIRST).write_bytes(content)
        assert_same(read_all(ShardSet(str(folder))), whole)


@pytest.mark.parametrize("seed", range(4))
def test_no_damage_to_a_file_goes_unnoticed_or_ends_the_process(
    packed: Path, tmp_path: Path, seed: int
) -> None:
    """250 damages a seed: an error that names the shard, or the very same images and a hash that tells.

    Each is done to a second set too, whose manifest does not list where values are: the file's footer says.
    """
    unlisted = tmp_path / "unlisted"
    shutil.copytree(packed, unlisted)
    edit_first_shard(unlisted, pixels_at=[], labels_at=[])
    whole = read_all(ShardSet(str(packed)))
    process = multiprocessing.get_context("fork").Process(
        target=read_damaged, args=(packed, unlisted, whole, seed)
    )
    process.start()
    process.join()
    assert process.exitcode == 0, f"seed {seed}"


def test_another_encoding_is_refused(packed: Path) -> None:
    # A page's header is outside its checksum: this turns PLAIN into BYTE_STREAM_SPLIT.
    edit_first_shard(packed, pixels_at=[], labels_at=[])
    content = bytearray((packed / FIRST).read_bytes())
    refused = 0
    for at in range(4, 40):
        if content[at] != 0:
            continue
        content[at] = 18
        (packed / FIRST).write_bytes(content)
        content[at] = 0
        try:
            ShardSet(str(packed)).read_group(0)
        except DataError as error:
            refused += "not plain, uncompressed values" in str(error)
    assert refused, "no byte of the header is the encoding: look again"


@pytest.mark.parametrize("labelled", [True, False])
def test_sets_of_earlier_versions_are_read(tmp_path: Path, labelled: bool) -> None:
    """Their manifests list no places, and their row groups have a page for each mebibyte."""
    rows = random_rows(5000, 32 * 32 * 3, labelled=labelled)
    classes = CLASSES if labelled else None
    write_set(str(tmp_path), iter([rows]), group_rows=2000, height=32, width=32, channels=3, classes=classes)
    options: dict[str, Any] = {"compression": "none", "use_dictionary": False, "write_statistics": False}
    pq.write_table(
        rows_table(rows), tmp_path / FIRST, row_group_size=2000, write_page_checksum=True, **options
    )
    content = (tmp_path / FIRST).read_bytes()
    edit_first_shard(
        tmp_path,
        pixels_at=[],
        labels_at=[],
        bytes=len(content),
        sha256=hashlib.sha256(content).hexdigest(),
    )
    images = ShardSet(str(tmp_path))
    assert_same(read_all(images), rows)
    sizes = [len(part) for _, part in images.read_parts(0)]
    assert len(sizes) > 3
    assert sum(sizes) == 2000
    verify_set(str(tmp_path))
    pq.write_table(
        rows_table(rows), tmp_path / FIRST, row_group_size=2000, **options | {"compression": "snappy"}
    )
    edit_first_shard(tmp_path, bytes=(tmp_path / FIRST).stat().st_size)
    with pytest.raises(DataError, match=f"{FIRST}, row group 0, .* not plain, uncompressed values"):
        ShardSet(str(tmp_path)).read_group(0)


def test_damage_since_the_file_was_opened_is_noticed(packed: Path) -> None:
    images = ShardSet(str(packed))
    images.read_group(0)
    with (packed / FIRST).open("r+b") as file:
        file.seek(GROUP * 96 * 2)
        byte = file.read(1)[0]
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte ^ 1]))
    with pytest.raises(DataError, match=FIRST):
        read_all(images)


def test_a_file_cut_short_since_it_was_opened_is_an_error_and_no_crash(tmp_path: Path) -> None:
    rows = random_rows(400, 32 * 32 * 3, labelled=False)
    write_set(str(tmp_path), iter([rows]), group_rows=100, height=32, width=32, channels=3)
    images = ShardSet(str(tmp_path))
    images.read_group(0)
    os.truncate(tmp_path / FIRST, 500_000)
    with pytest.raises(DataError, match=f"{FIRST}, row group 3, .*500000 bytes long"):
        images.read_group(3)


def test_a_restored_file_is_read_again(packed: Path) -> None:
    images = ShardSet(str(packed))
    whole = read_all(images)
    content = (packed / FIRST).read_bytes()
    (packed / FIRST).write_bytes(content[:1000])
    with pytest.raises(DataError, match=FIRST):
        images.read_group(0)
    # A header that cannot be parsed, then a whole file in the place of the damaged one.
    (packed / FIRST).write_bytes(content[:4] + bytes([255]) * 40 + content[44:])
    with pytest.raises(DataError, match=f"{FIRST}, row group 0, .* cannot be read"):
        images.read_group(0)
    (packed / "restored").write_bytes(content)
    (packed / "restored").replace(packed / FIRST)
    assert_same(read_all(images), whole)


def test_what_arrives_damaged_from_a_store_is_fetched_again(
    packed: Path, bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, fetch, times = read_all(ShardSet(str(packed))), StoreFile._fetch, count()
    storage.copy_tree(str(packed), f"{bucket}/set")

    def damaged(file: StoreFile, begin: int, end: int) -> bytes:
        content = bytearray(fetch(file, begin, end))
        content[-1] ^= next(times) < FETCHES - 1
        return bytes(content)

    monkeypatch.setattr(StoreFile, "_fetch", damaged)
    assert_same(read_all(ShardSet(f"{bucket}/set")), whole)


def test_shards_in_each_others_place_are_noticed(tmp_path: Path) -> None:
    parts = [random_rows(GROUP, 48, seed) for seed in range(2)]
    write_set(str(tmp_path), iter(parts), group_rows=GROUP, height=4, width=4, channels=3, classes=CLASSES)
    (tmp_path / FIRST).rename(tmp_path / "away")
    (tmp_path / SECOND).rename(tmp_path / FIRST)
    (tmp_path / "away").rename(tmp_path / SECOND)
    images = ShardSet(str(tmp_path))
    for group, file in enumerate((FIRST, SECOND)):
        with pytest.raises(DataError, match=f"{file}.*is damaged"):
            images.read_group(group)


# A manifest and shards that disagree


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"file": "gone.parquet"}, r"shard gone\.parquet, row group 0, .* cannot be read"),
        ({"row_groups": [30, 30, 12]}, f"shard {FIRST}, row group 0, .* does not hold 30 labelled images"),
        (
            {"row_groups": [36, 36], "checksums": ["", ""]},
            f"shard {FIRST}, row group 0, .* 36 labelled images",
        ),
        ({"bytes": 1}, rf"shard {FIRST}, row group 0, .* bytes long, not 1\)"),
        ({"checksums": ["0" * 32] * 3}, f"shard {FIRST}, row group 0, .* is damaged"),
    ],
    ids=["missing-file", "other-rows", "other-groups", "other-size", "other-checksum"],
)
def test_a_shard_that_is_not_as_the_manifest_says_is_named(
    packed: Path, fields: dict[str, object], message: str
) -> None:
    edit_first_shard(packed, **fields)
    with pytest.raises(DataError, match=message):
        ShardSet(str(packed)).read_group(0)
    with pytest.raises(DataError, match=str(fields.get("file", FIRST))):
        verify_set(str(packed))


def test_a_row_group_that_the_file_lacks_is_named(packed: Path) -> None:
    edit_first_shard(packed, row_groups=[GROUP] * 4, checksums=[""] * 4)
    edit_manifest(packed, lambda manifest: manifest.update(count=6 * GROUP))
    images = ShardSet(str(packed))
    with pytest.raises(DataError, match=f"shard {FIRST}, row group 3, .* cannot be read"):
        images.read_group(3)


def test_a_row_group_that_the_manifest_lacks_is_named_by_verification(packed: Path) -> None:
    manifest = ShardSet(str(packed)).manifest
    edit_first_shard(packed, row_groups=[GROUP] * 2, checksums=manifest.shards[0].checksums[:2])
    edit_manifest(packed, lambda fields: fields.update(count=4 * GROUP))
    with pytest.raises(DataError, match=f"{FIRST}: row groups of "):
        verify_set(str(packed))


@pytest.mark.parametrize(
    "fields",
    [{"height": 8}, {"channels": 1}, {"classes": None}],
    ids=["height", "channels", "unlabelled"],
)
def test_images_of_another_kind_name_the_shard(packed: Path, fields: dict[str, object]) -> None:
    edit_manifest(packed, lambda manifest: manifest.update(fields))
    with pytest.raises(DataError, match=f"shard {FIRST}, row group 0, .* does not hold {GROUP} "):
        ShardSet(str(packed)).read_group(0)
    with pytest.raises(DataError, match=f"{FIRST}: its columns are pixels: .*96.*, not pixels: "):
        verify_set(str(packed))


@pytest.mark.parametrize("says_where", [True, False])
def test_a_label_without_a_class_names_the_shard(packed: Path, says_where: bool) -> None:
    if not says_where:
        edit_first_shard(packed, pixels_at=[], labels_at=[])
    edit_manifest(packed, lambda manifest: manifest.update(classes=["0", "1", "2"]))
    what = r"label [3-9] is none of the manifest's 3 classes"
    images = ShardSet(str(packed))
    for read in (images.read_group, lambda group: list(images.read_parts(group))):
        with pytest.raises(DataError, match=f"shard {FIRST}, row group 0, of .*: {what}"):
            read(0)
    with pytest.raises(DataError, match=f"{FIRST}: row group 0: {what}"):
        verify_set(str(packed))


def test_labels_that_the_manifest_promises_must_be_there(tmp_path: Path) -> None:
    rows = random_rows(GROUP, 48, labelled=False)
    write_set(str(tmp_path), iter([rows]), group_rows=GROUP, height=4, width=4, channels=3, classes=CLASSES)
    with pytest.raises(DataError, match=f"shard {FIRST}, .* does not hold {GROUP} labelled images"):
        ShardSet(str(tmp_path)).read_group(0)


# What is no manifest


def test_a_folder_without_a_manifest_is_no_set(tmp_path: Path) -> None:
    with pytest.raises(
        DataError,
        match=f"^data.path={tmp_path} holds no image set: .*{MANIFEST} does not exist; `gan-dist pack SOURCE",
    ):
        ShardSet(str(tmp_path))


@pytest.mark.parametrize(
    "text",
    [b"", b"not json", b"[1, 2]", b"{}", b"\xff\xfe\x00", b'{"schema_version": "one"}', b"[" * 100_000],
    ids=["empty", "text", "list", "object", "binary", "version", "deep"],
)
def test_what_is_no_manifest_is_said_to_be_none(packed: Path, text: bytes) -> None:
    (packed / MANIFEST).write_bytes(text)
    with pytest.raises(DataError, match=f"{packed}.*{MANIFEST}|holds no image set"):
        ShardSet(str(packed))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"height": 0}, "height: Input should be greater than 0"),
        ({"width": None}, "width: Input should be a valid integer"),
        ({"colour": "red"}, "colour: Extra inputs are not permitted"),
        ({"count": 121}, f"says 121 images, but its shards list {5 * GROUP}"),
        ({"count": 0, "shards": []}, "says 0 images, but its shards list 0"),
        ({"height": 10**30}, f"says images of 8x{10**30}x3, more than {2**31 - 1} bytes each"),
    ],
)
def test_a_wrong_field_of_the_manifest_is_named(
    packed: Path, fields: dict[str, object], message: str
) -> None:
    edit_manifest(packed, lambda manifest: manifest.update(fields))
    with pytest.raises(DataError, match=message):
        ShardSet(str(packed))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"row_groups": [GROUP, -GROUP, 3 * GROUP]},
            "shards: 0: row_groups: 1: Input should be greater than 0",
        ),
        ({"checksums": []}, f"lists 3 row groups but 0 checksums for shard {FIRST}"),
        ({"file": SECOND}, f"lists shard {SECOND} 2 times; its images would be, too"),
        *(
            ({"file": file}, "shards: 0: file: String should match pattern")
            for file in ("../x", "/dev/zero", "a\\b", "a\0b", "")
        ),
    ],
)
def test_a_wrong_field_of_a_shard_is_named(packed: Path, fields: dict[str, object], message: str) -> None:
    edit_first_shard(packed, **fields)
    with pytest.raises(DataError, match=message):
        ShardSet(str(packed))


@pytest.mark.parametrize("there", ["pipe", "device"])
def test_a_device_or_a_pipe_in_place_of_a_shard_is_damage(packed: Path, there: str) -> None:
    (packed / FIRST).unlink()
    (packed / FIRST).symlink_to("/dev/zero") if there == "device" else os.mkfifo(packed / FIRST)
    with pytest.raises(DataError, match="it is a device or a pipe"):
        ShardSet(str(packed)).read_group(0)
    with pytest.raises(GanDistError, match="it is a device or a pipe"):
        verify_set(str(packed))


def test_a_newer_format_says_so_even_with_fields_unknown_here(packed: Path) -> None:
    edit_manifest(packed, lambda manifest: manifest.update(schema_version=2, codec="new", shards="elsewhere"))
    with pytest.raises(DataError, match="was packed with format 2, this version reads 1; pack the set again"):
        ShardSet(str(packed))


# Memory and processes


@pytest.mark.parametrize("labelled", [True, False])
def test_tables_and_arrays_share_memory(labelled: bool) -> None:
    rows = random_rows(50, 48, labelled=labelled)
    table = rows_table(rows)
    back = table_rows(table)
    assert_same(back, rows)
    assert np.shares_memory(back.pixels, rows.pixels)
    if rows.labels is not None and back.labels is not None:
        assert np.shares_memory(back.labels, rows.labels)
    sliced = table_rows(table.slice(10, 7))
    assert_same(sliced, rows[10:17])
    assert np.shares_memory(sliced.pixels, rows.pixels)


def test_tables_of_several_chunks_are_joined() -> None:
    rows = random_rows(50, 48)
    parts = pa.concat_tables([rows_table(rows[:20]), rows_table(rows[20:])])
    assert parts.column("pixels").num_chunks == 2
    assert_same(table_rows(parts), rows)
    assert_same(table_rows(parts.slice(15, 20)), rows[15:35])


def test_a_set_travels_to_other_processes_before_and_after_reading(packed: Path) -> None:
    images = ShardSet(str(packed))
    fresh = pickle.dumps(images)
    whole = read_all(images)
    # Open files stay behind.
    assert pickle.dumps(images) == fresh
    copied: ShardSet = pickle.loads(fresh)
    assert copied.manifest == images.manifest
    assert_same(read_all(copied), whole)


def test_many_files_can_be_read_and_none_stays_open(tmp_path: Path) -> None:
    parts = [random_rows(3, 12, seed, labelled=False) for seed in range(70)]
    write_set(str(tmp_path), iter(parts), group_rows=3, height=2, width=2, channels=3)
    images = ShardSet(str(tmp_path))
    open_before = len(list(Path("/proc/self/fd").iterdir()))
    assert_same(read_all(images), Rows.concatenate(parts))
    assert_same(images.read_group(0), parts[0])
    assert len(list(Path("/proc/self/fd").iterdir())) == open_before


def without_places(folder: Path) -> None:
    def edit(manifest: dict[str, Any]) -> None:
        for shard in manifest["shards"]:
            del shard["pixels_at"], shard["labels_at"]

    edit_manifest(folder, edit)


@pytest.mark.parametrize("labelled", [True, False])
def test_values_are_where_the_manifest_says(tmp_path: Path, labelled: bool) -> None:
    rows = random_rows(70, 96, labelled=labelled)
    classes = CLASSES if labelled else None
    write_set(str(tmp_path), iter([rows]), group_rows=GROUP, height=4, width=8, channels=3, classes=classes)
    images = ShardSet(str(tmp_path))
    fingerprint, (shard,) = images.manifest.fingerprint(), images.manifest.shards
    content = (tmp_path / FIRST).read_bytes()
    for group, at in enumerate(shard.pixels_at):
        part = rows[GROUP * group : GROUP * (group + 1)]
        assert content[at : at + part.pixels.nbytes] == part.pixels.tobytes()
        if part.labels is not None:
            at = shard.labels_at[group]
            assert content[at : at + part.labels.nbytes] == part.labels.tobytes()
    # Nothing else is read: neither footer nor headers.
    first = min(shard.pixels_at)
    last = max(shard.labels_at or shard.pixels_at)
    (tmp_path / FIRST).write_bytes(bytes(first) + content[first : last + 8] + bytes(len(content) - last - 8))
    with pytest.raises(DataError, match=f"{FIRST}, row group 2, .* cannot be read"):
        images.read_group(2)  # of which that left one label, or one image's beginning
    assert_same(images.read_group(0), rows[:GROUP])
    # A set that says nothing is the same set.
    (tmp_path / FIRST).write_bytes(content)
    without_places(tmp_path)
    images = ShardSet(str(tmp_path))
    assert images.manifest.fingerprint() == fingerprint
    assert_same(read_all(images), rows)


@settings(max_examples=30, deadline=None)
@given(
    groups=st.lists(st.integers(1, 40), min_size=1, max_size=4), chunk=st.integers(1, 3000), data=st.data()
)
def test_parts_are_the_row_group_piece_by_piece(groups: list[int], chunk: int, data: st.DataObject) -> None:
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_group, "CHUNK", chunk)
        parts = [random_rows(count, 48, count) for count in groups]
        write_set(folder, iter(parts), group_rows=17, height=4, width=4, channels=3, classes=CLASSES)
        images = ShardSet(folder)
        assert_same(read_all(images), Rows.concatenate(parts))
        slices = []
        for group in data.draw(st.permutations(range(len(images.group_rows)))):
            start = data.draw(st.integers(0, images.group_rows[group] - 1))
            slices.append(
                GroupSlice(group, start, data.draw(st.integers(start + 1, images.group_rows[group])))
            )
        expected = Rows.concatenate([images.read_group(p.group)[p.start : p.stop] for p in slices])
        laid = images.manifest.empty(sum(map(len, slices)))
        for first, part in read_slices(images, slices):
            assert part.pixels.nbytes <= max(chunk, 48)
            laid.put(slice(first, first + len(part)), part)
        assert_same(laid, expected)


def test_parts_end_with_an_error_where_they_are_damaged(packed: Path) -> None:
    images = ShardSet(str(packed))
    content = bytearray((packed / FIRST).read_bytes())
    content[images.manifest.shards[0].pixels_at[1]] ^= 1
    (packed / FIRST).write_bytes(content)
    with pytest.raises(DataError, match=f"{FIRST}, row group 1, .* is damaged"):
        list(images.read_parts(1))
    assert sum(len(part) for _, part in images.read_parts(0)) == GROUP


@pytest.mark.parametrize("places", [[4, 4, 4], [10**9] * 3, [7], [10**30] * 3])
@pytest.mark.parametrize("column", ["pixels_at", "labels_at"])
def test_wrong_places_cost_no_more_than_time(packed: Path, column: str, places: list[int]) -> None:
    whole = read_all(ShardSet(str(packed)))
    edit_first_shard(packed, **{column: places})
    assert_same(read_all(ShardSet(str(packed))), whole)


def test_more_rows_than_a_file_can_hold_are_no_reason_to_make_room_for_them(packed: Path) -> None:
    edit_first_shard(packed, row_groups=[GROUP, GROUP, 10**15])
    edit_manifest(packed, lambda manifest: manifest.update(count=4 * GROUP + 10**15))
    with pytest.raises(DataError, match=f"{FIRST}, row group 2, .* does not hold {10**15} labelled images"):
        ShardSet(str(packed)).read_group(2)
