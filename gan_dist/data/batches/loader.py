"""From a configuration to batches: opens the set, chooses how it is read, and follows the order."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch

from gan_dist.config import DataConfig
from gan_dist.core.image_size import ImageSize, border, crop_box, inner_size
from gan_dist.core.storage.filesystems import expand_home
from gan_dist.core.threads import prefetch
from gan_dist.data.batches.buffer import BatchBuffer
from gan_dist.data.batches.readers import InMemoryReader, Reader, ThreadedReader
from gan_dist.data.builtin import PREFIX, open_builtin
from gan_dist.data.order import Order
from gan_dist.data.shards.disk_cache import DiskCached
from gan_dist.data.shards.manifest import ImageSet, Manifest
from gan_dist.data.shards.rows import Rows
from gan_dist.data.shards.shard_set import ShardSet

MEMORY_LIMIT = 256 * 2**20
READ_AHEAD = 16


@dataclass(frozen=True)
class Batch:
    """One rank's part of a global batch.

    `images` is uint8 (n, C, H, W), stored channels last; `labels` is int64 (n,) or None.
    """

    images: torch.Tensor
    labels: torch.Tensor | None


def open_images(path: str) -> ImageSet:
    """Return the set that `data.path` names.

    Raises:
        DataError: there is no such set, or its manifest cannot be understood.
    """
    return open_builtin(path) if path.startswith(PREFIX) else ShardSet(path)


def open_configured(data: DataConfig) -> ImageSet:
    """Return a run's set, cached on the node's disk where that is configured and the set is not local.

    Raises:
        DataError: there is no such set, or its manifest cannot be understood.
    """
    images = open_images(data.path)
    if not data.disk_cache_gb or not isinstance(images, ShardSet) or "://" not in images.uri:
        return images
    folder = str(expand_home(data.disk_cache_dir))
    return DiskCached(images, folder, round(data.disk_cache_gb * 1e9))


def image_resolution(data: DataConfig, manifest: Manifest) -> int | str:
    """Return the size of the images that the networks work at: the edge of a square, or `WIDTHxHEIGHT`."""
    return data.resolution or manifest.size.resolution


def make_order(data: DataConfig, images: ImageSet, *, seed: int, batch_size: int) -> Order:
    """Return the order of a run's images."""
    return Order(
        images.group_rows, seed=seed, batch_size=batch_size, streams=data.streams, window=data.window
    )


def choose_reader(images: ImageSet, cache: str, *, with_ray: bool) -> Reader:
    """Return the reader for a value of `data.cache`; every reader gives the same rows.

    What does not fit in memory is streamed, by Ray Data's tasks or else by threads of this process.
    """
    if bytes_in_memory(images, cache):
        return InMemoryReader(images)
    if with_ray:
        from gan_dist.data.batches.ray_reader import RayDataReader

        return RayDataReader(images)
    return ThreadedReader(images)


def bytes_in_memory(images: ImageSet, cache: str) -> int:
    """Return the bytes of images that each worker holds in memory; 0 where they are streamed."""
    size = images.manifest.count * images.manifest.image_bytes
    return size if cache == "memory" or (cache == "auto" and size <= MEMORY_LIMIT) else 0


def batches(
    order: Order, reader: Reader, *, rank: int, world_size: int, start: int, stop: int
) -> Iterator[Rows]:
    """Yield a rank's part of every global batch from slot `start` until `stop` is reached.

    Both are positions on the clock, images seen; `start` is a multiple of the batch size.
    """
    batch = order.batch_size
    stop = start + -(-(stop - start) // batch) * batch
    buffer = BatchBuffer(order, reader.empty, rank=rank, world_size=world_size, start=start, stop=stop)
    written = reader(order.windows(order.rank_streams(rank, world_size), start, stop), buffer, READ_AHEAD)
    added = yielded = 0
    for number in range(start // batch, stop // batch):
        while not buffer.is_complete(number):
            added += buffer.add(next(written))
        rows = reader.to_images(buffer.pop(number))
        yielded += len(rows)
        yield rows
        # Add as much as has been yielded, for all streams may need their next window in the same batch.
        while added < yielded + buffer.block_rows and (writer := next(written, None)):
            added += buffer.add(writer)


def to_batch(rows: Rows, images: ImageSet, resolution: int | str, fit: str = "crop") -> Batch:
    """Return rows as tensors of the asked resolution; `fit` is a value of `data.fit`."""
    manifest = images.manifest
    shape = (len(rows), manifest.height, manifest.width, manifest.channels)
    pixels = _tensor(rows.pixels).view(shape).permute(0, 3, 1, 2)
    labels = None if rows.labels is None else _tensor(rows.labels)
    return Batch(resize(pixels, resolution, fit), labels)


def _tensor(array: npt.NDArray[Any]) -> torch.Tensor:
    # Torch has no tensors that may only be read, as arrays over Arrow's memory are.
    return torch.from_numpy(array if array.flags.writeable else array.copy())


def resize(images: torch.Tensor, resolution: int | str, fit: str = "crop") -> torch.Tensor:
    """Return uint8 images (n, C, H, W) at another resolution: bilinear, antialiased when shrinking.

    Args:
        images: Four channels are RGB and alpha.
        resolution: Edge of a square, or `WIDTHxHEIGHT`.
        fit: A value of `data.fit`, for images of another aspect.
    """
    size, own = ImageSize.of(resolution), ImageSize(*images.shape[-2:])
    if own == size:
        return images
    if fit.startswith("pad"):
        inner = inner_size(own, size)
        top, left = (size.height - inner.height) // 2, (size.width - inner.width) // 2
        pixel = images.new_tensor(border(fit, images.shape[1]))
        padded = pixel.expand(len(images), *size, -1).permute(0, 3, 1, 2).clone()  # stored channels last
        padded[..., top : top + inner.height, left : left + inner.width] = _scaled(images, inner)
        return padded
    if fit == "crop":
        left, top, right, bottom = crop_box(own, size)
        images = images[..., top:bottom, left:right].contiguous(memory_format=torch.channels_last)
    return _scaled(images, size)


def _scaled(images: torch.Tensor, size: ImageSize) -> torch.Tensor:
    if ImageSize(*images.shape[-2:]) == size:
        return images
    values, has_alpha = images.float(), images.shape[1] == 4
    if has_alpha:  # what is transparent has no colour to mix with others
        values = torch.cat([values[:, :3] * (values[:, 3:] / 255), values[:, 3:]], 1)
    scaled = torch.nn.functional.interpolate(values, size=size, mode="bilinear", antialias=True)
    if has_alpha:
        alpha = scaled[:, 3:]
        colours = torch.where(alpha < 0.5, 255, scaled[:, :3] * 255 / alpha.clamp(min=0.5))
        scaled = torch.cat([colours, alpha], 1)
    return scaled.round_().clamp_(0, 255).to(torch.uint8)


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches on `device`.

    Batches for a GPU are copied as bytes, from pinned memory, on a stream of their own. A thread prepares the
    next one while the GPU computes.
    """
    if device.type != "cuda":
        yield from batches
        return

    def pinned(batch: Batch) -> Batch:
        with torch.cuda.device(device):  # a thread begins with the first GPU, whoever's that is
            return _each(batch, torch.Tensor.pin_memory)

    copies = torch.cuda.Stream(device)
    on_its_way: tuple[Batch, torch.cuda.Event] | None = None
    for batch in prefetch(map(pinned, batches)):
        with torch.cuda.stream(copies):
            sent = _each(batch, lambda tensor: tensor.to(device, non_blocking=True))
            arrived = copies.record_event()
        if on_its_way is not None:
            yield _received(*on_its_way)
        on_its_way = sent, arrived
    if on_its_way is not None:
        yield _received(*on_its_way)


def _each(batch: Batch, change: Callable[[torch.Tensor], torch.Tensor]) -> Batch:
    return Batch(change(batch.images), None if batch.labels is None else change(batch.labels))


def _received(batch: Batch, arrived: torch.cuda.Event) -> Batch:
    current = torch.cuda.current_stream()
    current.wait_event(arrived)
    for tensor in (batch.images, batch.labels):
        if tensor is not None:
            # The allocator must not hand the memory out again while this stream reads it.
            tensor.record_stream(current)
    return batch
