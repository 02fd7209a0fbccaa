"""Interface between the training loop and its launcher, and the launcher of plain processes."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar, Protocol

import torch
import torch.distributed as dist

from gan_dist.core.distributed import Process
from gan_dist.training.progress import Progress

logger = logging.getLogger("gan_dist")
CPU = torch.device("cpu")


class Context(Process, Protocol):
    """One process of a run."""

    @property
    def with_ray(self) -> bool:
        """Whether images may be streamed by Ray Data, which needs a Ray to be connected."""

    def progress(self, progress: Progress) -> None:
        """Report the progress of the run; called at every step."""

    def stop_requested(self) -> bool:
        """Return whether the run should write a checkpoint and end; only rank 0's value is used."""

    def before_writing(self) -> None:
        """Called by rank 0 before it writes to the run's folder, also in other threads than the loop's.

        Raises:
            WorkerError: other processes have taken the run over.
        """

    def report(self, metrics: Mapping[str, object], checkpoint: str) -> None:
        """Report an evaluation, whose checkpoint, a name, is in the run's folder.

        The name is empty where the checkpoint waits for the run's store.

        Every rank calls it at the same time; rank 0's arguments count.
        """


@dataclass
class LocalContext:
    """A plain process, or one of several that have already joined torch.distributed's default group."""

    run_uri: str
    _: KW_ONLY
    device: torch.device = CPU
    on_progress: Callable[[Progress], None] = lambda _: None
    """Called by rank 0 only."""
    should_stop: Callable[[], bool] = lambda: False
    with_ray: ClassVar = False

    @property
    def rank(self) -> int:
        return dist.get_rank() if dist.is_initialized() else 0

    @property
    def world_size(self) -> int:
        return dist.get_world_size() if dist.is_initialized() else 1

    def progress(self, progress: Progress) -> None:
        if self.rank == 0:
            self.on_progress(progress)

    def stop_requested(self) -> bool:
        return self.should_stop()

    def warn(self, sentence: str) -> None:
        logger.warning(sentence)

    def before_writing(self) -> None:
        """Nothing: the command holds the folder."""

    def report(self, metrics: Mapping[str, object], checkpoint: str) -> None:
        if dist.is_initialized():
            dist.barrier()
