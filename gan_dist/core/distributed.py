"""One process of a distributed run."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.distributed as dist


class Process(Protocol):
    """A process among those that run the same program."""

    @property
    def rank(self) -> int:
        """Number of this process, from 0."""

    @property
    def world_size(self) -> int:
        """Number of processes."""

    @property
    def device(self) -> torch.device:
        """Device on which this process computes."""

    def warn(self, sentence: str) -> None:
        """Show the user a warning; any rank may call it."""


def broadcast_from_rank0(process: Process, value: Any) -> Any:
    """Return rank 0's value on every rank; every rank must call it."""
    if process.world_size == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, device=process.device)
    return values[0]
