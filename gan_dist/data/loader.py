"""From a configuration to batches: opens the set, chooses how it is read, and follows the order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy.typing as npt
import torch

from gan_dist.config import RunConfig
from gan_dist.data.builtin import PREFIX, open_builtin
from gan_dist.data.cache import DiskCached
from gan_dist.data.manifest import ImageSet
from gan_dist.data.order import Order, Take, Window
from gan_dist.data.resident import Direct, Resident
from gan_dist.data.rows import Rows, Selection
from gan_dist.data.shards import ShardSet

MEMORY_LIMIT = 256 * 2**20
READ_AHEAD = 12

Fetch = Callable[[Iterable[Window], int], Iterator[tuple[Window, Rows | Selection]]]
"""Yields windows in order, reading the given number of them ahead."""


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch.

    `images` is uint8 (n, C, R, R), stored channels last; `labels` is int64 (n,) or None.
    """

    images: torch.Tensor
    labels: torch.Tensor | None


def open_images(path: str) -> ImageSet:
    """Return the set that `data.path` names.

    Raises:
        DataError: there is no such set, or its manifest cannot be understood.
    """
    return open_builtin(path) if path.startswith(PREFIX) else ShardSet(path)


def open_configured(config: RunConfig) -> ImageSet:
    """Return a run's set, with the node's disk before it where that is asked for and the set is not local.

    Raises:
        DataError: there is no such set, or its manifest cannot be understood.
    """
    images = open_images(config.data.path)
    if not config.data.disk_cache_gb or not isinstance(images, ShardSet) or "://" not in images.uri:
        return images
    folder = str(Path(config.data.disk_cache_dir).expanduser())
    return DiskCached(images, folder, round(config.data.disk_cache_gb * 1e9))


def image_resolution(config: RunConfig, images: ImageSet) -> int:
    """Return the edge length in pixels that the networks work at."""
    return config.data.resolution or images.manifest.height


def make_order(config: RunConfig, images: ImageSet) -> Order:
    """Return the order of a run's images."""
    return Order(
        images.group_rows,
        seed=config.seed,
        batch_size=config.train.batch_size,
        streams=config.data.streams,
        window=config.data.window,
    )


def choose_fetch(config: RunConfig, images: ImageSet, *, with_ray: bool) -> Fetch:
    """Return how windows are read; every way gives the same rows.

    Args:
        config: The run.
        images: Its set.
        with_ray: Let Ray Data's tasks do the streaming, rather than threads of this process.
    """
    if held_bytes(config, images):
        return Resident(images)
    if with_ray:
        from gan_dist.data.stream import Streamed

        return Streamed(images)
    return Direct(images)


def held_bytes(config: RunConfig, images: ImageSet) -> int:
    """Return the bytes of images that each worker holds in memory; 0 where they are streamed."""
    manifest = images.manifest
    size = manifest.count * manifest.height * manifest.width * manifest.channels
    held = config.data.cache == "memory" or (config.data.cache == "auto" and size <= MEMORY_LIMIT)
    return size if held else 0


def batches(
    order: Order, fetch: Fetch, *, rank: int, world_size: int, start: int, stop: int
) -> Iterator[Rows]:
    """Yield a rank's part of every global batch from slot `start` until `stop` is reached.

    Both are positions on the clock, images seen; `start` is a multiple of the batch size.
    """
    batch = order.batch_size
    stop = start + -(-(stop - start) // batch) * batch
    streams = order.rank_streams(rank, world_size)
    held = _Held(streams, fetch(order.windows(streams, start, stop), READ_AHEAD))
    for slot in range(start, stop, batch):
        yield _joined([part for take in order.takes(slot, rank, world_size) for part in held.parts(take)])
        held.keep_pace()


class _Held:
    """The windows that a rank has: of each stream what is being shown and what comes next."""

    def __init__(self, streams: list[int], arriving: Iterator[tuple[Window, Rows | Selection]]) -> None:
        self._arriving = arriving
        self._queues: dict[int, deque[tuple[Window, Rows | Selection]]] = {s: deque() for s in streams}
        self._arrived = 0
        self._shown = 0
        self._lead = 0

    def parts(self, take: Take) -> Iterator[tuple[Rows | Selection, int, int]]:
        """Yield the parts of windows that a take consists of, as what to copy from, start and stop."""
        queue = self._queues[take.stream]
        while not queue or queue[-1][0].stop < take.stop:
            self._pull(next(self._arriving))
        while queue[0][0].stop <= take.start:
            queue.popleft()
        for window, rows in queue:
            low, high = max(take.start, window.start), min(take.stop, window.stop)
            if low < high:
                yield rows, low - window.start, high - window.start
        self._shown += take.stop - take.start

    def keep_pace(self) -> None:
        """Take in as much as has been shown, for all streams may need their next window in the same batch."""
        self._lead = self._lead or self._arrived
        while self._arrived < self._shown + self._lead:
            arrived = next(self._arriving, None)
            if arrived is None:
                break
            self._pull(arrived)

    def _pull(self, arrived: tuple[Window, Rows | Selection]) -> None:
        self._queues[arrived[0].stream].append(arrived)
        self._arrived += len(arrived[0])


def _joined(parts: list[tuple[Rows | Selection, int, int]]) -> Rows:
    """Return rows [start, stop) of each part, one after another: the one copy that a batch costs."""
    first = parts[0][0] if isinstance(parts[0][0], Rows) else parts[0][0].rows
    count = sum(stop - start for _, start, stop in parts)
    joined = Rows.empty(count, first.pixels.shape[1], labelled=first.labels is not None)
    at = 0
    for rows, start, stop in parts:
        rows.copy_to(joined, at, start, stop)
        at += stop - start
    return joined


def to_batch(rows: Rows, images: ImageSet, resolution: int) -> Batch:
    """Return rows as tensors of the asked resolution."""
    manifest = images.manifest
    shape = (len(rows), manifest.height, manifest.width, manifest.channels)
    pixels = _tensor(rows.pixels).view(shape).permute(0, 3, 1, 2)
    labels = None if rows.labels is None else _tensor(rows.labels)
    return Batch(resize(pixels, resolution), labels)


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    # Torch has no tensors that may only be read, as arrays over Arrow's memory are.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def resize(images: torch.Tensor, resolution: int) -> torch.Tensor:
    """Return uint8 images (n, C, H, W) at another resolution: bilinear, antialiased when shrinking."""
    if images.shape[-2:] == (resolution, resolution):
        return images
    size = (resolution, resolution)
    scaled = torch.nn.functional.interpolate(images.float(), size=size, mode="bilinear", antialias=True)
    return scaled.round_().clamp_(0, 255).to(torch.uint8)
