"""Batches on their way to the device, one ahead of the step that uses them."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from gan_dist.data.loader import Batch


def on_device(batches: Iterator[Batch], device: torch.device) -> Iterator[Batch]:
    """Yield batches on `device`; to a GPU they go as bytes, from pinned memory, on their own stream."""
    if device.type != "cuda":
        yield from batches
        return
    copies = torch.cuda.Stream(device)
    ahead: tuple[Batch, torch.cuda.Event] | None = None
    for batch in batches:
        with torch.cuda.stream(copies):
            labels = None if batch.labels is None else _send(batch.labels, device)
            sent = Batch(_send(batch.images, device), labels)
            arrived = copies.record_event()
        if ahead is not None:
            yield _received(*ahead)
        ahead = sent, arrived
    if ahead is not None:
        yield _received(*ahead)


def _send(tensor: Tensor, device: torch.device) -> Tensor:
    return tensor.pin_memory().to(device, non_blocking=True)


def _received(batch: Batch, arrived: torch.cuda.Event) -> Batch:
    current = torch.cuda.current_stream()
    current.wait_event(arrived)
    for tensor in (batch.images, batch.labels):
        if tensor is not None:
            # The allocator must not hand the memory out again while this stream reads it.
            tensor.record_stream(current)
    return batch
