"""Batches on their way to the device, one ahead of the step that uses them."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from gan_dist.core.threads import prefetch
from gan_dist.data.batches.loader import Batch


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches on `device`.

    To a GPU they go as bytes, from pinned memory, on their own stream; a thread puts the next one together
    while the GPU computes, whose results the caller waits for.
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


def _each(batch: Batch, change: Callable[[Tensor], Tensor]) -> Batch:
    return Batch(change(batch.images), None if batch.labels is None else change(batch.labels))


def _received(batch: Batch, arrived: torch.cuda.Event) -> Batch:
    current = torch.cuda.current_stream()
    current.wait_event(arrived)
    for tensor in (batch.images, batch.labels):
        if tensor is not None:
            # The allocator must not hand the memory out again while this stream reads it.
            tensor.record_stream(current)
    return batch
