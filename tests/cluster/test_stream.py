"""The order run by Ray Data: the same images as from memory, in the same order, through a bad network too."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from gan_dist.core import storage
from gan_dist.core.errors import DataError, GanDistError, StorageError
from gan_dist.data.batches import ray_reader as stream_module
from gan_dist.data.batches.loader import batches, open_images
from gan_dist.data.batches.ray_reader import RayDataReader
from gan_dist.data.batches.readers import InMemoryReader, Reader
from gan_dist.data.builtin import DIGITS, open_builtin
from gan_dist.data.order import Order
from gan_dist.data.shards.manifest import ImageSet
from gan_dist.data.shards.rows import Rows
from gan_dist.data.shards.shard_set import ShardSet, write_set
from tests.support.commands import wait_until
from tests.support.faults import proxy

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]


def stream(images: ImageSet, fetch: Reader, *, world_size: int, start: int, stop: int) -> list[Rows]:
    """Return the global batches, put together from all ranks' parts."""
    order = Order(images.group_rows, seed=3, batch_size=48, streams=4, window=512)
    parts = [
        batches(order, fetch, rank=rank, world_size=world_size, start=start, stop=stop)
        for rank in range(world_size)
    ]
    return [Rows.concatenate(list(batch)) for batch in zip(*parts, strict=True)]


def assert_same(a: list[Rows], b: list[Rows]) -> None:
    assert len(a) == len(b)
    for one, other in zip(a, b, strict=True):
        assert np.array_equal(one.pixels, other.pixels)
        assert one.labels is not None
        assert other.labels is not None
        assert np.array_equal(one.labels, other.labels)


@pytest.mark.parametrize("world_size", [1, 3])
def test_ray_data_gives_the_images_of_memory_in_their_order(world_size: int) -> None:
    images = open_builtin("builtin://digits")
    expected = stream(images, InMemoryReader(images), world_size=1, start=0, stop=6000)
    whole = stream(images, RayDataReader(images), world_size=world_size, start=0, stop=6000)
    assert_same(whole, expected)
    resumed = stream(images, RayDataReader(images), world_size=world_size, start=1920, stop=6000)
    assert_same(resumed, expected[40:])


class Overtaken(ShardSet):
    """A set whose first reader waits until another one has read."""

    folder: Path

    def read_parts(self, group: int) -> Iterator[tuple[int, Rows]]:
        try:
            (self.folder / "first").touch(exist_ok=False)
        except FileExistsError:
            (self.folder / "another").touch()
        else:
            wait_until((self.folder / "another").exists)
            time.sleep(0.5)  # it hands its rows over
        return super().read_parts(group)


def test_many_tasks_come_in_several_datasets_and_in_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stream_module, "TASK_ROWS", 600)
    monkeypatch.setattr(stream_module, "TASKS", 2)
    monkeypatch.setattr(stream_module, "SMALL_TASK_BYTES", 0)
    images = Overtaken(str(DIGITS))
    images.folder = tmp_path
    expected = stream(images, InMemoryReader(ShardSet(str(DIGITS))), world_size=1, start=0, stop=6000)
    assert_same(stream(images, RayDataReader(images), world_size=1, start=0, stop=6000), expected)


def test_blocks_larger_than_rays_limit_are_put_together_again(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (700, 256 * 256 * 3), dtype=np.uint8)
    shape = {"height": 256, "width": 256, "channels": 3, "classes": ("a", "b")}
    write_set(str(tmp_path), iter([Rows(pixels, np.arange(700) % 2)]), group_rows=700, **shape)
    images = ShardSet(str(tmp_path))
    order = Order(images.group_rows, seed=0, batch_size=100, streams=1, window=700)
    streamed = batches(order, RayDataReader(images), rank=0, world_size=1, start=0, stop=1400)
    memory = batches(order, InMemoryReader(images), rank=0, world_size=1, start=0, stop=1400)
    assert_same(list(streamed), list(memory))


@pytest.mark.parametrize("missing", [False, True])
def test_damage_that_a_task_meets_is_the_error_of_the_user_alone(tmp_path: Path, missing: bool) -> None:
    shutil.copytree(DIGITS, tmp_path / "set")
    shard = min((tmp_path / "set").glob("*.parquet"))
    images = open_images(str(tmp_path / "set"))
    shard.unlink() if missing else shard.write_bytes(shard.read_bytes()[:-5000])
    with pytest.raises(GanDistError, match=shard.name) as caught:
        stream(images, RayDataReader(images), world_size=1, start=0, stop=6000)
    assert isinstance(caught.value, DataError | StorageError)
    assert type(caught.value).__module__ == "gan_dist.core.errors"  # Ray's are of these classes, too
    assert "Failed to apply" not in str(caught.value)


def test_a_bad_network_changes_nothing(bucket: str, s3_url: str) -> None:
    uri = storage.join(bucket, "digits")
    storage.copy_tree(str(DIGITS), uri)
    local = open_builtin("builtin://digits")
    expected = stream(local, InMemoryReader(local), world_size=1, start=0, stop=3600)
    with proxy(s3_url, seed=2) as running:
        images = open_images(f"{uri}?endpoint_override=127.0.0.1:{running.port}&scheme=http")
        running.faults.errors, running.faults.truncate, running.faults.corrupt = 0.1, 0.05, 0.05
        assert_same(stream(images, RayDataReader(images), world_size=2, start=0, stop=3600), expected)
        assert sum(running.counts.values()) > running.counts["pass"] > 0
