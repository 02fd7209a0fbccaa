"""The disk cache: the same images, a hard limit, nothing lost that could not be fetched again."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from gan_dist.core import storage
from gan_dist.core.errors import StorageError
from gan_dist.data.shards import disk_cache
from gan_dist.data.shards.disk_cache import DiskCached
from gan_dist.data.shards.rows import Rows
from gan_dist.data.shards.shard_set import ShardSet, write_set

ROWS, SIZE = 32, 8 * 8 * 3
GROUP_BYTES = ROWS * (SIZE + 8)


@pytest.fixture
def images(tmp_path: Path) -> ShardSet:
    generator = np.random.default_rng(0)

    def shard() -> Rows:
        pixels = generator.integers(0, 256, (4 * ROWS, SIZE), dtype=np.uint8)
        return Rows(pixels, np.arange(4 * ROWS))

    shape = {"height": 8, "width": 8, "channels": 3, "classes": tuple(map(str, range(4 * ROWS)))}
    write_set(str(tmp_path / "set"), iter([shard(), shard()]), group_rows=ROWS, **shape)
    return ShardSet(str(tmp_path / "set"))


def assert_same(a: Rows, b: Rows) -> None:
    assert np.array_equal(a.pixels, b.pixels)
    assert a.labels is not None
    assert b.labels is not None
    assert np.array_equal(a.labels, b.labels)


def held(folder: Path) -> int:
    total = 0
    for file in folder.iterdir():
        # Another process may evict it between being listed and being measured.
        with suppress(FileNotFoundError):
            total += file.stat().st_size if file.name != "lock" else 0
    return total


def test_a_group_is_fetched_once(images: ShardSet, tmp_path: Path) -> None:
    cached = DiskCached(images, str(tmp_path / "cache"), 10**9)
    expected = [images.read_group(group) for group in range(8)]
    for group in range(8):
        assert_same(cached.read_group(group), expected[group])
    for file in (tmp_path / "set").glob("*.parquet"):
        file.rename(file.with_suffix(".away"))
    again = DiskCached(images, str(tmp_path / "cache"), 10**9)
    for group in range(8):
        assert_same(again.read_group(group), expected[group])


def test_the_limit_is_never_exceeded_and_what_was_used_last_stays(
    images: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, fetched = tmp_path / "cache", []
    limit = 4 * (GROUP_BYTES + 4096)
    expected = [images.read_group(group) for group in range(8)]

    def fetch(group: int) -> Rows:
        fetched.append(group)
        return expected[group]

    monkeypatch.setattr(images, "read_group", fetch)
    cached = DiskCached(images, str(folder), limit)
    for group in (0, 1, 2, 0, 3, 4, 0, 5, 6, 7, 0):
        assert_same(cached.read_group(group), expected[group])
        assert held(folder) <= limit
        for file in folder.glob("*.rows"):  # a minute goes by
            at = file.stat().st_mtime - 60
            os.utime(file, (at, at))
    assert fetched == [*range(8)]
    assert not any(folder.glob("*-00000001.rows"))


def test_what_storage_no_longer_has_is_not_evicted(images: ShardSet, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    cached = DiskCached(images, str(folder), 5 * (GROUP_BYTES + 4096))
    only_here = [cached.read_group(group) for group in range(4)]
    (tmp_path / "set" / "shard-00000.parquet").unlink()
    for group in range(4, 8):
        cached.read_group(group)
    for group in range(4):
        assert_same(cached.read_group(group), only_here[group])


def test_a_limit_that_holds_nothing_only_costs_speed(images: ShardSet, tmp_path: Path) -> None:
    cached = DiskCached(images, str(tmp_path / "cache"), 100)
    assert_same(cached.read_group(0), images.read_group(0))
    assert held(tmp_path / "cache") == 0


def test_a_process_that_is_suspended_while_it_writes_stops_no_other(
    images: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(disk_cache, "LOCK_S", 0.1)
    folder = tmp_path / "cache"
    folder.mkdir()
    with FileLock(folder / "lock"):
        cached = DiskCached(images, str(folder), 10**9)
        assert_same(cached.read_group(0), images.read_group(0))
    assert not any(folder.glob("*.rows"))


def test_a_damaged_copy_is_fetched_again(images: ShardSet, tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    cached = DiskCached(images, str(folder), 10**9)
    cached.read_group(2)
    (file,) = folder.glob("*.rows")
    content = bytearray(file.read_bytes())
    for position in (0, len(content) // 2, len(content) - 10):
        damaged = bytearray(content)
        damaged[position] ^= 1
        file.write_bytes(damaged)
        assert_same(cached.read_group(2), images.read_group(2))
    file.write_bytes(content[:1000])
    assert_same(cached.read_group(2), images.read_group(2))


def read_damaged(images: ShardSet, folder: Path, seed: int) -> None:
    cached = DiskCached(images, str(folder), 10**9)
    expected = cached.read_group(2)
    (file,) = folder.glob("*.rows")
    content = file.read_bytes()
    generator = np.random.default_rng(seed)
    for _ in range(200):
        at, length = int(generator.integers(len(content))), int(generator.integers(1, 4000))
        damaged = bytearray(content)
        kind = generator.integers(3)
        if kind == 0:
            damaged[at] ^= 1 << int(generator.integers(8))
        elif kind == 1:
            del damaged[at:]
        else:
            damaged[at : at + length] = bytes(len(damaged[at : at + length]))
        file.write_bytes(damaged)
        cached._is_evictable(file)
        assert_same(cached.read_group(2), expected)


def test_no_damage_to_a_copy_gives_other_images_or_ends_the_process(images: ShardSet, tmp_path: Path) -> None:
    seed = 7
    process = multiprocessing.get_context("fork").Process(
        target=read_damaged, args=(images, tmp_path / "cache", seed)
    )
    process.start()
    process.join()
    assert process.exitcode == 0, f"seed {seed}"


def strange_entry(folder: Path, name: str, content: bytes) -> Path:
    """Put a file into a cache that was used longer ago than any other."""
    path = folder / name
    path.write_bytes(content)
    os.utime(path, (1, 1))
    return path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("other-00000000.rows", b""),
        ("other-00000000.rows", b"garbage" * 1000),
        ("other-00000000.rows", b"gan-dist row group of s3://away" + bytes(7000)),
        ("other-00000000.rows", b"gan-dist row group of \xff\n" + bytes(7000)),
        ("other-00000000.arrow", b"ARROW1" + bytes(7000) + b"ARROW1"),
    ],
    ids=["empty", "garbage", "endless", "text", "earlier-version"],
)
def test_what_is_no_row_group_makes_room(images: ShardSet, tmp_path: Path, name: str, content: bytes) -> None:
    folder = tmp_path / "cache"
    cached = DiskCached(images, str(folder), 2 * (GROUP_BYTES + 4096))
    cached.read_group(0)
    strange = strange_entry(folder, name, content)
    for group in range(1, 4):
        assert_same(cached.read_group(group), images.read_group(group))
    assert not strange.exists()
    assert any(folder.glob("*-00000003.rows"))


def test_what_a_silent_store_may_have_lost_is_kept_and_asked_about_once(
    images: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, asked = tmp_path / "cache", []
    cached = DiskCached(images, str(folder), 5 * (GROUP_BYTES + 4096))
    cached.read_group(0)
    origins = [f"s3://away/set{number}/shard-00000.parquet?region=x" for number in range(2)]
    kept = [
        strange_entry(folder, f"other-{n}.rows", f"gan-dist row group of {origin}\n".encode() + bytes(6000))
        for n, origin in enumerate(origins)
    ]
    exists = storage.exists

    def unless_away(uri: str) -> bool:
        if not uri.startswith("s3://"):
            return exists(uri)
        asked.append(uri)
        raise StorageError(f"{uri} could not be used within 60 s")

    monkeypatch.setattr(storage, "exists", unless_away)
    for group in range(1, 8):
        assert_same(cached.read_group(group), images.read_group(group))
    assert all(path.exists() for path in kept)
    assert asked == [origins[0]]
    assert any(folder.glob("*-00000007.rows"))


def test_an_entry_that_vanishes_while_room_is_made_is_no_matter(
    images: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    cached = DiskCached(images, str(folder), 2 * (GROUP_BYTES + 4096))
    for group in range(2):
        cached.read_group(group)
    listed, exists = Path.iterdir, storage.exists

    def with_one_that_is_gone(path: Path) -> Iterator[Path]:
        return iter([*listed(path), path / "gone.rows"])

    def vanishes(uri: str) -> bool:
        for file in folder.glob("*-0000000[01].rows"):
            file.unlink()
        return exists(uri)

    monkeypatch.setattr(Path, "iterdir", with_one_that_is_gone)
    monkeypatch.setattr(storage, "exists", vanishes)
    assert_same(cached.read_group(2), images.read_group(2))
    assert any(folder.glob("*-00000002.rows"))


def test_a_folder_that_others_own_only_costs_speed(
    images: ShardSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "cache"
    cached = DiskCached(images, str(folder), 10**9)
    cached.read_group(0)
    (file,) = folder.glob("*.rows")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    def cannot_lock(*_: object, **__: object) -> None:
        raise NotImplementedError("FileSystem does not appear to support flock")

    monkeypatch.setattr(os, "utime", refuse)
    monkeypatch.setattr(Path, "unlink", refuse)
    assert_same(cached.read_group(0), images.read_group(0))
    file.write_bytes(b"")
    assert_same(cached.read_group(0), images.read_group(0))
    monkeypatch.setattr(disk_cache, "FileLock", cannot_lock)
    assert_same(cached.read_group(1), images.read_group(1))


def _fill(uri: str, folder: str, limit: int, seed: int) -> None:
    images = ShardSet(uri)
    cached = DiskCached(images, folder, limit)
    for group in np.random.default_rng(seed).integers(0, 8, 60):
        assert_same(cached.read_group(int(group)), images.read_group(int(group)))
        assert held(Path(folder)) <= limit


def test_processes_of_a_node_may_share_a_folder(images: ShardSet, tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    limit = 3 * (GROUP_BYTES + 4096)
    arguments = [(images.uri, str(tmp_path / "cache"), limit, seed) for seed in range(3)]
    processes = [context.Process(target=_fill, args=one) for one in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0, 0]
