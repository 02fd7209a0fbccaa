"""A stretch of a run trained again, in plain processes on this machine, in a folder of its own."""

from __future__ import annotations

import multiprocessing
import os
import queue
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from gan_dist.artifacts.audit_log import Entry, read_log
from gan_dist.config import RunConfig
from gan_dist.core import storage
from gan_dist.core.errors import CapacityError, GanDistError, WorkerError
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from gan_dist.training.progress import Progress

POLL_S = 0.5
Show = Callable[[Progress], None]


def replay(
    config: RunConfig, begin: str | None, stop_at: int, workers: int, folder: str, show: Show
) -> list[Entry]:
    """Train from a checkpoint, or from the start, until `stop_at` images; return the audit log of that.

    Args:
        config: The run's configuration when it reached `stop_at`.
        begin: URI of the checkpoint or, for the start, of the run's copy of the weights that it began with;
            None for random ones.
        stop_at: Images of the last checkpoint that is written.
        workers: Processes, as many as the run had; the same number gives the same bits.
        folder: An empty local folder for the run's files.
        show: Called with the progress.

    Raises:
        CapacityError: this machine has too few GPUs.
        GanDistError: any error of the loop.
        WorkerError: a process died.
    """
    settings = config.model_copy(
        update={
            "storage": config.storage.model_copy(update={"path": folder}),
            "train": config.train.model_copy(update={"checkpoint_every_s": None}),
        }
    )
    if config.scale.gpus_per_worker and torch.cuda.device_count() < workers:
        there = torch.cuda.device_count()
        what = f"the run had {workers} workers with a GPU each, and this machine has {there} GPUs"
        raise CapacityError(what, "audit it on a machine that has as many", keys=("scale.workers",))
    if begin is not None:
        storage.copy_tree(begin, storage.join(settings.run_uri, begin.rpartition("/")[2]))
    if workers == 1:
        _train(settings.model_dump(mode="json"), 0, stop_at, show)
    else:
        _train_on_ranks(settings.model_dump(mode="json"), workers, stop_at, folder, show)
    return read_log(settings.run_uri)


def _train(settings: dict[str, Any], rank: int, stop_at: int, show: Show) -> None:
    config = RunConfig.model_validate(settings)
    # As a worker on a cluster does: bits depend on the number of threads.
    torch.set_num_threads(config.scale.threads)
    device = torch.device("cuda", rank) if config.scale.gpus_per_worker else torch.device("cpu")
    train(config, LocalContext(config.run_uri, device=device, on_progress=show), stop_at)


def _train_on_ranks(settings: dict[str, Any], workers: int, stop_at: int, folder: str, show: Show) -> None:
    context = multiprocessing.get_context("spawn")
    messages: Any = context.Queue()
    given = settings, workers, stop_at, str(Path(folder) / "ranks")
    ranks = [
        context.Process(target=_rank, args=(rank, *given, messages), daemon=True) for rank in range(workers)
    ]
    try:
        for rank in ranks:
            rank.start()
        running = True
        while running:
            running = any(rank.is_alive() for rank in ranks)
            failed = [rank.exitcode for rank in ranks if rank.exitcode not in (None, 0)]
            _read(messages, show)
            if failed:
                raise WorkerError(f"a process of the audit ended with code {failed[0]}")
    finally:
        for rank in ranks:
            rank.kill()
            rank.join()


def _read(messages: Any, show: Show) -> None:
    """Show the progress that ranks have sent, waiting for it; raise the error that one has sent."""
    try:
        while True:
            message = messages.get(timeout=POLL_S)
            if isinstance(message, GanDistError):
                raise message
            show(message)
    except queue.Empty:
        return


def _rank(rank: int, settings: dict[str, Any], workers: int, stop_at: int, store: str, messages: Any) -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    backend = "nccl" if settings["scale"]["gpus_per_worker"] else "gloo"
    dist.init_process_group(backend, init_method=f"file://{store}", rank=rank, world_size=workers)
    try:
        _train(settings, rank, stop_at, messages.put)
    except GanDistError as error:
        messages.put(error)
    dist.destroy_process_group()
