"""From a set to batches: the same rows however they are read, in bounded memory, with nothing left behind."""

from __future__ import annotations

import itertools
import pickle
import threading
import time
import weakref
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_dist.config import RunConfig, load_config
from gan_dist.core.errors import DataError
from gan_dist.data.batches.buffer import BatchBuffer
from gan_dist.data.batches.loader import (
    MEMORY_LIMIT,
    READ_AHEAD,
    batches,
    choose_reader,
    image_resolution,
    make_order,
    open_images,
    resize,
    to_batch,
)
from gan_dist.data.batches.readers import READERS, InMemoryReader, Reader, ThreadedReader, read_all
from gan_dist.data.builtin import DIGITS, open_builtin
from gan_dist.data.order import Order, Window
from gan_dist.data.shards.manifest import ImageSet, Manifest, ShardInfo
from gan_dist.data.shards.rows import Rows

SETS = [
    "builtin://digits",
    "builtin://stacked-digits?count=5000",
    "builtin://shapes?count=9000&resolution=8",
]


class Numbered:
    """A labelled 1x2x3 set that knows its groups: the pixels and the label of a row tell which it is.

    Parts come in the same memory, and some rows come twice, at first wrong.

    Args:
        group_rows: Rows in each group.
        fail_at: The group that cannot be read.
        seconds: How long it takes to read a group.
    """

    def __init__(
        self, group_rows: tuple[int, ...], *, fail_at: int | None = None, seconds: float = 0
    ) -> None:
        shard = ShardInfo(file="none", row_groups=group_rows, checksums=(), bytes=0, sha256="")
        self.manifest = Manifest(
            height=1, width=2, channels=3, count=sum(group_rows), classes=("a",), shards=(shard,)
        )
        self.group_rows = group_rows
        self.fail_at = fail_at
        self.seconds = seconds
        self.reads: list[int] = []
        self.alive = self.most_alive = 0
        self._lock = threading.RLock()

    def read_group(self, group: int) -> Rows:
        if group == self.fail_at:
            raise DataError(f"group {group} is damaged")
        time.sleep(self.seconds)
        first = sum(self.group_rows[:group])
        numbers = np.arange(first, first + self.group_rows[group])
        pixels = numbers.astype("<u4")[:, None].view(np.uint8)
        pixels = np.concatenate([pixels, np.full((len(numbers), 2), group % 256, np.uint8)], axis=1)
        with self._lock:
            self.reads.append(group)
            self.alive += 1
            self.most_alive = max(self.most_alive, self.alive)
        weakref.finalize(pixels, self._freed)
        return Rows(pixels, numbers)

    def read_parts(self, group: int) -> Iterator[tuple[int, Rows]]:
        rows = self.read_group(group)
        room = Rows(np.zeros((3, 6), np.uint8), None if rows.labels is None else np.zeros(3, np.int64))
        yield 0, room[: len(rows)]
        for first in range(0, len(rows), 3):
            part = rows[first : first + 3]
            room.put(slice(0, len(part)), part)
            yield first, room[: len(part)]
            room.pixels[:] = 255

    def _freed(self) -> None:
        with self._lock:
            self.alive -= 1


def numbers_of(rows: Rows) -> list[int]:
    """The rows' numbers, after checking that pixels and labels agree."""
    assert rows.labels is not None
    numbers = np.ascontiguousarray(rows.pixels[:, :4]).view("<u4").ravel()
    np.testing.assert_array_equal(numbers, rows.labels)
    return [int(number) for number in numbers]


def window_rows(images: ImageSet, window: Window) -> Rows:
    """A window's rows in the order in which they are shown."""
    slices = [images.read_group(one.group)[one.start : one.stop] for one in window.slices]
    return Rows.concatenate(slices)[window.permutation()]


def order_of(images: ImageSet, batch: int, streams: int | None = None, window: int = 2048) -> Order:
    return Order(images.group_rows, seed=3, batch_size=batch, streams=streams, window=window)


def global_batches(order: Order, fetch: Reader, world_size: int, start: int, stop: int) -> Iterator[Rows]:
    ranks = [
        batches(order, fetch, rank=rank, world_size=world_size, start=start, stop=stop)
        for rank in range(world_size)
    ]
    for parts in zip(*ranks, strict=True):
        yield Rows.concatenate(list(parts))


def assert_same(a: Rows, b: Rows) -> None:
    np.testing.assert_array_equal(a.pixels, b.pixels)
    assert a.labels is not None
    assert b.labels is not None
    np.testing.assert_array_equal(a.labels, b.labels)


def reader_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("read")]


def config(path: str, *overrides: str) -> RunConfig:
    return load_config("digits", [f"data.path={path}", *overrides])


# The same rows


@pytest.mark.parametrize("uri", SETS)
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize("begin", [0, 29])
def test_memory_and_reading_give_equal_batches(uri: str, world_size: int, begin: int) -> None:
    images = open_images(uri)
    batch = 96
    order = order_of(images, batch)
    start, stop = begin * batch, (begin + 25) * batch
    alone = global_batches(order, InMemoryReader(images), 1, start, stop)
    resident = global_batches(order, InMemoryReader(images), world_size, start, stop)
    direct = global_batches(order, ThreadedReader(images), world_size, start, stop)
    for one, two, three in zip(alone, resident, direct, strict=True):
        assert len(one) == batch
        assert_same(one, two)
        assert_same(one, three)


@settings(max_examples=30, deadline=None)
@given(
    groups=st.lists(st.integers(1, 20), min_size=1, max_size=25),
    share=st.integers(1, 9),
    world_size=st.integers(1, 5),
    streams=st.none() | st.integers(1, 12),
    window=st.sampled_from([1, 20, 10_000]),
    begin=st.integers(0, 40),
)
def test_batches_are_the_rows_of_the_orders_windows(
    groups: list[int], share: int, world_size: int, streams: int | None, window: int, begin: int
) -> None:
    images = Numbered(tuple(groups))
    order = order_of(images, share * world_size, streams, window)
    start, stop = begin * order.batch_size, (begin + 12) * order.batch_size
    shown: dict[int, int] = {}
    for window_ in order.windows(range(order.streams), start, stop):
        numbers = numbers_of(window_rows(images, window_))
        slots = range(window_.stream + window_.start * order.streams, 10**9, order.streams)
        shown.update(zip(slots, numbers, strict=False))
    for fetch in (InMemoryReader(images), ThreadedReader(images)):
        drawn = list(global_batches(order, fetch, world_size, start, stop))
        assert len(drawn) == 12
        for slot, rows in zip(range(start, stop, order.batch_size), drawn, strict=True):
            slots = range(slot, slot + order.batch_size)
            expected = [shown[s] for s in sorted(slots, key=lambda s: s % order.streams)]
            assert numbers_of(rows) == expected


def test_the_number_of_windows_read_ahead_changes_nothing() -> None:
    images = Numbered((7,) * 30)
    order = order_of(images, 10, streams=4, window=28)
    windows = list(order.windows(range(4), 0, 500))
    expected = list(global_batches(order, InMemoryReader(images), 1, 0, 500))
    for ahead in (0, 1, 3, 10**6):
        direct = ThreadedReader(images)
        buffer = BatchBuffer(order, direct.empty, rank=0, world_size=1, start=0, stop=500)
        read = list(direct(windows, buffer, ahead))
        assert [writer.window for writer in read] == windows
        assert sum(map(buffer.add, read)) == 500
        for number, rows in enumerate(expected):
            assert_same(buffer.pop(number), rows)


@pytest.mark.parametrize(("uri", "batch"), list(zip(SETS, (599, 1000, 1000), strict=True)))
def test_an_epoch_shows_every_image_once_with_its_own_label(uri: str, batch: int) -> None:
    images = open_images(uri)
    whole = read_all(images)

    def tagged(rows: Rows) -> list[tuple[bytes, int]]:
        assert rows.labels is not None
        return sorted(
            (row.tobytes(), int(label)) for row, label in zip(rows.pixels, rows.labels, strict=True)
        )

    for fetch in (InMemoryReader(images), ThreadedReader(images)):
        shown = list(global_batches(order_of(images, batch), fetch, 1, 0, len(whole)))
        assert tagged(Rows.concatenate(shown)) == tagged(whole)


def test_sets_without_labels_give_batches_without() -> None:
    class Unlabelled(Numbered):
        def __init__(self) -> None:
            super().__init__((9,) * 6)
            self.manifest = self.manifest.model_copy(update={"classes": None})

        def read_group(self, group: int) -> Rows:
            return Rows(super().read_group(group).pixels, None)

    images = Unlabelled()
    for fetch in (InMemoryReader(images), ThreadedReader(images)):
        for rows in batches(order_of(images, 12), fetch, rank=0, world_size=2, start=0, stop=60):
            assert rows.labels is None
            assert to_batch(rows, images, 4).labels is None


def test_a_last_batch_is_whole() -> None:
    images = Numbered((10,) * 5)
    drawn = list(
        batches(order_of(images, 16), ThreadedReader(images), rank=0, world_size=1, start=32, stop=70)
    )
    assert [len(rows) for rows in drawn] == [16, 16, 16]
    none = batches(order_of(images, 16), ThreadedReader(images), rank=0, world_size=1, start=32, stop=32)
    assert list(none) == []


def test_batches_do_not_change_once_they_are_given() -> None:
    images = Numbered((10,) * 20)
    drawn = list(
        batches(order_of(images, 20), InMemoryReader(images), rank=0, world_size=1, start=0, stop=200)
    )
    assert sorted(itertools.chain(*map(numbers_of, drawn))) == list(range(200))
    for rows in drawn:
        rows.pixels[:] = 0
    again = list(
        batches(order_of(images, 20), InMemoryReader(images), rank=0, world_size=1, start=0, stop=200)
    )
    assert sorted(itertools.chain(*map(numbers_of, again))) == list(range(200))


# Memory, threads and errors


class CountedRoom(ThreadedReader):
    """Counts the rows that there is room for at a time."""

    def __init__(self, images: ImageSet) -> None:
        super().__init__(images)
        self.rows = self.most_rows = self.largest = 0

    def empty(self, count: int) -> Rows:
        rows = super().empty(count)
        self.largest = max(self.largest, count)
        self.rows += count
        self.most_rows = max(self.most_rows, self.rows)
        weakref.finalize(rows.pixels, self._freed, count)
        return rows

    def _freed(self, count: int) -> None:
        self.rows -= count


@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize(
    ("batch", "rounds"),
    # A batch that spans the ends of windows needs the old ones, the new ones and those that follow at once.
    [(40, 2), (48, 3)],
    ids=["windows-of-whole-batches", "batches-across-windows"],
)
def test_reading_holds_few_rounds_of_windows_however_large_the_set(
    batch: int, rounds: int, world_size: int
) -> None:
    images = Numbered((10,) * 400)
    order = order_of(images, batch, streams=8, window=80)
    streams = len(order.rank_streams(0, world_size))
    direct = CountedRoom(images)
    for _ in batches(order, direct, rank=0, world_size=world_size, start=0, stop=8000):
        pass
    assert len(images.reads) >= 800 // world_size
    assert images.most_alive <= READERS
    # Memory is taken for some batches at once, so for some more than are being read or shown.
    assert direct.most_rows <= (rounds * streams + READ_AHEAD) * 10 + direct.largest


def test_a_slow_consumer_is_not_run_away_from() -> None:
    images = Numbered((10,) * 400)
    order = order_of(images, 8, streams=8, window=80)
    drawn = batches(order, ThreadedReader(images), rank=0, world_size=1, start=0, stop=8000)
    next(drawn)
    time.sleep(0.05)
    assert len(images.reads) <= 2 * 8 + READERS
    drawn.close()  # type: ignore[attr-defined]


@pytest.mark.parametrize("how", ["close", "forget", "finish"])
def test_no_thread_outlives_its_batches(how: str) -> None:
    images = Numbered((10,) * 100)
    order = order_of(images, 8, streams=4, window=40)
    drawn = batches(order, ThreadedReader(images), rank=0, world_size=1, start=0, stop=1600)
    next(drawn)
    assert reader_threads()
    if how == "close":
        drawn.close()  # type: ignore[attr-defined]
    elif how == "finish":
        assert len(list(drawn)) == 199
    del drawn
    assert not reader_threads()
    if how != "finish":
        read = len(images.reads)
        time.sleep(0.02)
        assert len(images.reads) == read < 30


def test_closing_waits_only_for_the_reads_that_have_begun() -> None:
    images = Numbered((10,) * 200, seconds=0.05)
    order = order_of(images, 8, streams=4, window=40)
    direct = ThreadedReader(images)
    buffer = BatchBuffer(order, direct.empty, rank=0, world_size=1, start=0, stop=2000)
    reading = direct(list(order.windows(range(4), 0, 2000)), buffer, 150)
    next(reading)
    reading.close()  # type: ignore[attr-defined]
    assert len(images.reads) < 50


def test_a_group_that_cannot_be_read_is_an_error_and_ends_the_threads() -> None:
    images = Numbered((10,) * 40, fail_at=17)
    order = order_of(images, 8, streams=4, window=40)
    with pytest.raises(DataError, match="group 17 is damaged"):
        list(batches(order, ThreadedReader(images), rank=0, world_size=1, start=0, stop=400))
    assert not reader_threads()
    with pytest.raises(DataError, match="group 17 is damaged"):
        InMemoryReader(images)


# Which way is chosen


@pytest.mark.parametrize(
    ("path", "overrides", "expected"),
    [
        ("builtin://digits", [], InMemoryReader),
        ("builtin://shapes?count=21845&resolution=64", [], InMemoryReader),
        ("builtin://shapes?count=21846&resolution=64", [], ThreadedReader),
        ("builtin://digits", ["data.cache=stream"], ThreadedReader),
        ("builtin://shapes?count=1100&resolution=64", ["data.cache=memory"], InMemoryReader),
    ],
    ids=["small", "at-the-limit", "over-the-limit", "stream", "memory"],
)
def test_sets_of_up_to_256_mib_are_held_in_memory(
    path: str, overrides: list[str], expected: type, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Making 256 MiB of shapes is not what is tested.
    monkeypatch.setattr("gan_dist.data.batches.readers.read_all", lambda images: images.manifest)
    assert MEMORY_LIMIT == 256 * 2**20
    cache = config(path, *(overrides or ["data.cache=auto"])).data.cache
    assert isinstance(choose_reader(open_images(path), cache, with_ray=False), expected)


def test_the_order_is_the_one_that_the_configuration_asks_for() -> None:
    settings_ = config("builtin://shapes?count=9000", "data.streams=3", "data.window=6000")
    order = make_order(settings_.data, open_images(settings_.data.path), seed=5, batch_size=12)
    assert (order.seed, order.batch_size, order.streams, order.stream_window) == (5, 12, 3, 2000)
    assert order.count == 9000


def test_images_are_opened_by_path_or_by_built_in_name(tmp_path: Path) -> None:
    for path in ("builtin://digits", str(DIGITS)):
        assert open_images(path).manifest.count == 1797
    with pytest.raises(DataError, match="holds no image set"):
        open_images(str(tmp_path))


def test_the_resolution_is_the_configurations_or_the_sets() -> None:
    square, oblong = (
        open_builtin(f"builtin://shapes?resolution={size}").manifest for size in ("24", "48x24")
    )
    assert image_resolution(config("builtin://digits", "data.resolution=32").data, oblong) == 32
    assert image_resolution(config("builtin://digits", "data.resolution=16x8").data, square) == "16x8"
    assert image_resolution(config("builtin://digits", "data.resolution=null").data, square) == 24
    assert image_resolution(config("builtin://digits", "data.resolution=null").data, oblong) == "48x24"


# Tensors


@pytest.mark.parametrize("uri", SETS)
@pytest.mark.parametrize("resolution", [8, 16, 5])
def test_batches_are_uint8_images_stored_channels_last(uri: str, resolution: int) -> None:
    images = open_images(uri)
    channels = images.manifest.channels
    rows = read_all(images)[:32]
    batch = to_batch(rows, images, resolution)
    assert batch.images.shape == (32, channels, resolution, resolution)
    assert batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    assert batch.labels is not None
    assert batch.labels.dtype == torch.int64
    assert rows.labels is not None
    assert batch.labels.tolist() == rows.labels.tolist()


@pytest.mark.parametrize("uri", SETS)
def test_at_its_own_resolution_an_image_is_its_stored_pixels(uri: str) -> None:
    images = open_images(uri)
    channels = images.manifest.channels
    rows = read_all(images)[100:140]
    expected = rows.pixels.reshape(40, 8, 8, channels).transpose(0, 3, 1, 2)
    assert to_batch(rows, images, 8).images.numpy().tolist() == expected.tolist()


def test_images_may_be_wider_than_high() -> None:
    images = Numbered((5,))
    rows = images.read_group(0)
    batch = to_batch(rows, images, 2, "stretch")
    assert batch.images.shape == (5, 3, 2, 2)
    # One row of two pixels: both rows of the result are that row.
    expected = rows.pixels.reshape(5, 1, 2, 3).transpose(0, 3, 1, 2)
    assert batch.images[:, :, :1].numpy().tolist() == expected.tolist()
    assert torch.equal(batch.images[:, :, 0], batch.images[:, :, 1])


def bilinear_doubled(images: torch.Tensor) -> torch.Tensor:
    """Twice the size, from the definition: each value is 3/4 of the nearest pixel and 1/4 of the next."""
    values = images.double()
    for axis in (2, 3):
        size = values.shape[axis]
        nearest = torch.arange(2 * size) // 2
        following = (nearest + torch.tensor([-1, 1]).repeat(size)).clamp(0, size - 1)
        near, far = values.index_select(axis, nearest), values.index_select(axis, following)
        values = 0.75 * near + 0.25 * far
    return values


def test_doubling_is_bilinear() -> None:
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (20, 3, 8, 8), dtype=torch.uint8, generator=generator)
    resized = resize(images, 16)
    reference = bilinear_doubled(images)
    assert resized.dtype == torch.uint8
    # Halves may round either way.
    assert (resized.double() - reference).abs().max() <= 0.5 + 1e-4
    plain = torch.nn.functional.interpolate(images.double(), scale_factor=2, mode="bilinear")
    torch.testing.assert_close(reference, plain, rtol=0, atol=1e-9)


def test_shrinking_averages_rather_than_drops_pixels() -> None:
    stripes = torch.zeros(1, 1, 32, 32, dtype=torch.uint8)
    stripes[..., ::4] = 200
    # A triangle filter over 8 pixels weighs every fourth of them with a quarter, except at the edges.
    assert (resize(stripes, 8)[..., 1:-1].float() - 50).abs().max() <= 1


def test_resizing_to_the_same_size_is_no_copy_and_keeps_flat_images_flat() -> None:
    images = torch.full((2, 3, 9, 9), 255, dtype=torch.uint8)
    assert resize(images, 9) is images
    for resolution in (4, 16, 33):
        assert torch.equal(resize(images, resolution).unique(), torch.tensor([255], dtype=torch.uint8))


@pytest.mark.parametrize(
    ("size", "fit", "rows"),
    [
        ("4x2", "crop", [[1, 2, 3, 4], [1, 2, 3, 4]]),
        ("2x2", "crop", [[2, 3], [2, 3]]),
        ("4x4", "pad", [[0] * 4, [1, 2, 3, 4], [1, 2, 3, 4], [0] * 4]),
        ("4x4", "pad:0a0a0a", [[10] * 4, [1, 2, 3, 4], [1, 2, 3, 4], [10] * 4]),
        ("4x4", "stretch", [[1, 2, 3, 4]] * 4),
        ("6x2", "pad:white", [[255, 1, 2, 3, 4, 255]] * 2),
    ],
)
@pytest.mark.parametrize("channels", [1, 3])
def test_images_of_another_aspect_are_cropped_padded_or_stretched(
    size: str, fit: str, rows: list[list[int]], channels: int
) -> None:
    images = torch.tensor([[1, 2, 3, 4]] * 2, dtype=torch.uint8).expand(1, channels, -1, -1)
    assert resize(images, size, fit)[0, -1].tolist() == rows


def test_transparent_pixels_do_not_colour_their_neighbours() -> None:
    red, hidden = torch.tensor([200, 10, 10, 255]), torch.tensor([0, 255, 0, 0])
    images = torch.stack([red, hidden, hidden, hidden], 1).to(torch.uint8).view(1, 4, 1, 4)
    left, right = resize(images, "2x1", "stretch")[0, :, 0].unbind(1)
    assert 0 < left[3] < 255
    torch.testing.assert_close(left[:3].int(), red[:3].int(), rtol=0, atol=2)
    assert right[3] == 0 or right[1] < 20
    assert resize(images[..., 1:], "1x1", "stretch").flatten().tolist() == [255, 255, 255, 0]


def test_ways_of_reading_travel_to_other_processes() -> None:
    images = open_images("builtin://digits")
    order = order_of(images, 64)
    fetch: Reader = pickle.loads(pickle.dumps(ThreadedReader(images)))
    for a, b in zip(
        global_batches(order, fetch, 1, 0, 640),
        global_batches(order, InMemoryReader(images), 1, 0, 640),
        strict=True,
    ):
        assert_same(a, b)
