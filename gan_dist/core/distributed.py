"""What an evaluation must know of where it runs."""

from __future__ import annotations

from typing import Any, Protocol

import torch
import torch.distributed as dist


class Process(Protocol):
    """One process of several that do the same."""

    @property
    def rank(self) -> int:
        """This process's number among all of the run."""

    @property
    def world_size(self) -> int:
        """Number of processes of the run."""

    @property
    def device(self) -> torch.device:
        """Where this process computes."""

    def warn(self, sentence: str) -> None:
        """Tell the user something that the run goes on in spite of; any rank may."""


def broadcast_from_rank0(process: Process, value: Any) -> Any:
    """Return rank 0's value on every rank; all of them call it."""
    if process.world_size == 1:
        return value
    values = [value]
    dist.broadcast_object_list(values, src=0, device=process.device)
    return values[0]
