"""From a configuration to batches: opens the set, chooses how it is read, and follows the order."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy.typing as npt
import torch

from gan_dist.config import DataConfig, RunConfig
from gan_dist.data.batches.buffer import BatchBuffer, WindowWriter
from gan_dist.data.batches.readers import InMemoryReader, ThreadedReader
from gan_dist.data.builtin import PREFIX, open_builtin
from gan_dist.data.order import Order, Window
from gan_dist.data.shards.disk_cache import DiskCached
from gan_dist.data.shards.manifest import ImageSet
from gan_dist.data.shards.rows import Rows
from gan_dist.data.shards.shard_set import ShardSet

MEMORY_LIMIT = 256 * 2**20
READ_AHEAD = 16


class Reader(Protocol):
    """A way of reading."""

    def __call__(
        self, windows: Iterable[Window], assembly: BatchBuffer, ahead: int
    ) -> Iterator[WindowWriter]:
        """Put windows into batches, `ahead` of them at once, and yield each, in order, when it is there."""

    def empty(self, count: int) -> Rows:
        """Return room for so many rows of what is put."""

    def shown(self, rows: Rows) -> Rows:
        """Return what a batch of what was put shows."""


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


def choose_fetch(config: RunConfig, images: ImageSet, *, with_ray: bool) -> Reader:
    """Return how windows are read; every way gives the same rows.

    Args:
        config: The run.
        images: Its set.
        with_ray: Let Ray Data's tasks do the streaming, rather than threads of this process.
    """
    if held_bytes(config.data, images):
        return InMemoryReader(images)
    if with_ray:
        from gan_dist.data.batches.ray_reader import RayDataReader

        return RayDataReader(images)
    return ThreadedReader(images)


def held_bytes(data: DataConfig, images: ImageSet) -> int:
    """Return the bytes of images that each worker holds in memory; 0 where they are streamed."""
    manifest = images.manifest
    size = manifest.count * manifest.image_bytes
    held = data.cache == "memory" or (data.cache == "auto" and size <= MEMORY_LIMIT)
    return size if held else 0


def batches(
    order: Order, fetch: Reader, *, rank: int, world_size: int, start: int, stop: int
) -> Iterator[Rows]:
    """Yield a rank's part of every global batch from slot `start` until `stop` is reached.

    Both are positions on the clock, images seen; `start` is a multiple of the batch size.
    """
    batch = order.batch_size
    stop = start + -(-(stop - start) // batch) * batch
    assembly = BatchBuffer(order, fetch.empty, rank=rank, world_size=world_size, start=start, stop=stop)
    arriving = fetch(order.windows(order.rank_streams(rank, world_size), start, stop), assembly, READ_AHEAD)
    arrived = shown = 0
    for number in range(start // batch, stop // batch):
        while not assembly.is_whole(number):
            arrived += assembly.take_in(next(arriving))
        rows = fetch.shown(assembly.take_out(number))
        shown += len(rows)
        yield rows
        # Take in as much as has been shown, for all streams may need their next window in the same batch.
        while arrived < shown + assembly.block_rows and (filling := next(arriving, None)):
            arrived += assembly.take_in(filling)


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
