"""A run under Ray Train's TorchTrainer: the wiring, and the context in which its workers train."""

from __future__ import annotations

import os
import shutil
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer, get_device

from gan_dist import storage
from gan_dist.cluster.board import Link, News, new_board
from gan_dist.cluster.connect import cluster
from gan_dist.cluster.preflight import check_nodes
from gan_dist.config import RunConfig
from gan_dist.errors import GanDistError, WorkerError
from gan_dist.telemetry import Progress
from gan_dist.training import state as states
from gan_dist.training.loop import Outcome, train

RETRIES = 3
POLL_S = 0.5
ONE_ARENA = {"MALLOC_ARENA_MAX": "1"}
"""Ray runs the loop in a thread, and glibc returns the memory of a thread's own arena to the kernel whatever
`keep_freed_memory` says."""
SNAPSHOT = "checkpoint_manager_snapshot.json"


def run(config: RunConfig, show: Callable[[News], None], stop: Callable[[], bool] = lambda: False) -> Outcome:
    """Train a run on a cluster and return where it ended.

    An interrupt (SIGINT or SIGTERM) lets it write a checkpoint and end; a second one ends it at once.

    Args:
        config: The run; its `storage` is a URI or an absolute path.
        show: Called a few times a second with the workers' news.
        stop: Asked as often whether the run should write a checkpoint and end.

    Raises:
        CapacityError: the workers can never be placed.
        GanDistError: whatever the loop raises.
        WorkerError: the workers kept failing for another reason.
    """
    storage.configure(storage.StorageOptions(config.storage.backend, config.storage.timeout_s))
    with cluster(config.scale), _interrupts() as interrupted:
        check_nodes(config.run_uri)
        board = new_board()
        fit = _Fit(config, board)
        asked = False
        while fit.running():
            if (interrupted.is_set() or stop()) and not asked:
                board.request_stop.remote()
                asked = True
            show(ray.get(board.read.remote()))
            time.sleep(POLL_S)
        news: News = ray.get(board.read.remote())
        show(news)
    if news.failure is not None:
        raise news.failure
    if fit.error is not None:
        raise WorkerError(
            f"the workers failed {RETRIES + 1} times, the last time with: {fit.error}\n"
            "The same command goes on from the last checkpoint"
        ) from fit.error
    assert news.outcome is not None
    return news.outcome


class _Fit:
    """`TorchTrainer.fit` in a thread, so that the main thread can show progress and hear signals."""

    def __init__(self, config: RunConfig, board: Any) -> None:
        self.error: Exception | None = None
        self._trainer = _trainer(config, board)
        self._thread = threading.Thread(target=self._fit, name="fit", daemon=True)
        self._thread.start()

    def running(self) -> bool:
        return self._thread.is_alive()

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:
            self.error = error


def _trainer(config: RunConfig, board: Any) -> TorchTrainer:
    filesystem, path = storage.open_uri(config.storage.path)
    run_uri = config.run_uri
    states.prune(run_uri)
    # Ray's list of its checkpoints would refuse a run begun with another Ray version or one of which a user
    # has deleted a checkpoint. The loop finds its checkpoints by itself and checks them.
    storage.delete_file(storage.join(run_uri, SNAPSHOT))
    scale = config.scale
    resources = {"CPU": scale.cpus_per_worker, "GPU": scale.gpus_per_worker}
    os.environ.setdefault("RAY_TRAIN_HEALTH_CHECK_INTERVAL_S", "1")
    return TorchTrainer(
        _worker,
        train_loop_config={"config": config.model_dump(mode="json"), "board": board},
        scaling_config=ray.train.ScalingConfig(
            num_workers=scale.workers,
            use_gpu=scale.gpus_per_worker > 0,
            resources_per_worker={key: value for key, value in resources.items() if value},
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # Ray's types describe its older API
            name=config.name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(max_failures=RETRIES),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=states.KEEP),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            worker_runtime_env={"env_vars": ONE_ARENA},
        ),
    )


def _worker(settings: dict[str, Any]) -> None:
    """Run in every worker, and again in every worker after one has failed."""
    if ray.get(settings["board"].read.remote()).failure is not None:
        return  # Nothing that another try could mend.
    config = RunConfig.model_validate(settings["config"])
    torch.set_num_threads(max(1, int(config.scale.cpus_per_worker)))
    context = TrainContext(settings["board"])
    try:
        outcome = train(config, context)
    except GanDistError as error:
        ray.get(settings["board"].tell.remote(failure=error))
        raise
    finally:
        context.close()
    if context.rank == 0:
        ray.get(settings["board"].tell.remote(outcome=outcome))


class TrainContext:
    """A Ray Train worker, as the loop sees it.

    Args:
        board: The handle of the actor that the driver reads.
    """

    with_ray = True

    def __init__(self, board: Any) -> None:
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.device: torch.device = get_device()
        self._board = board
        self._link = Link(board) if self.rank == 0 else None

    def progress(self, progress: Progress) -> None:
        if self._link:
            self._link.progress = progress

    def stop_requested(self) -> bool:
        return self._link is not None and self._link.stop

    def warn(self, sentence: str) -> None:
        self._board.warn.remote(sentence)

    def report(self, metrics: Mapping[str, object], checkpoint: Path | None, name: str) -> None:
        kept = None if checkpoint is None else ray.train.Checkpoint.from_directory(checkpoint)
        ray.train.report(dict(metrics), checkpoint=kept, checkpoint_dir_name=name or None)
        if checkpoint is not None:
            shutil.rmtree(checkpoint)

    def close(self) -> None:
        """Send the last progress and stop exchanging."""
        if self._link:
            self._link.close()
            ray.get(self._board.tell.remote(progress=self._link.progress))


@contextmanager
def _interrupts() -> Iterator[threading.Event]:
    """Turn the first SIGINT or SIGTERM into an event; a second one raises KeyboardInterrupt."""
    interrupted = threading.Event()

    def handle(_signal: int, _frame: FrameType | None) -> None:
        if interrupted.is_set():
            raise KeyboardInterrupt
        interrupted.set()

    if threading.current_thread() is not threading.main_thread():
        yield interrupted
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield interrupted
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
