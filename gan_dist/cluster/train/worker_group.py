"""One worker group from its start to its end: `TorchTrainer.fit` in a thread."""

from __future__ import annotations

import os
import re
import threading
from typing import Any

import ray.train
from ray.train.torch import TorchTrainer

from gan_dist.cluster.nodes.placement import worker_resources
from gan_dist.cluster.train.worker import ReachableTorch, environment, run_worker
from gan_dist.config import RunConfig, ScaleConfig
from gan_dist.core import storage
from gan_dist.training import checkpoint as states

SOURCE_LINE = re.compile(r"^\[[^]]*\] ")
"""The source file and line at the start of gloo's errors (torch 2.11)."""
SNAPSHOT = "checkpoint_manager_snapshot.json"
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    # Ray's watcher would let workers train on until the deadline. The driver watches nodes itself.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


class WorkerGroup:
    """A worker group that trains in the background, while the main thread shows progress and handles signals.

    Ray restarts nothing: what follows an end is the driver's decision, which knows the progress, the nodes
    that are left and the numbers of workers that divide the batch.
    """

    def __init__(self, config: RunConfig, workers: int, actor: Any, number: int) -> None:
        self.workers = workers
        self.error: Exception | None = None
        states.prune(config.run_uri)
        # Ray's list of its checkpoints would refuse a run that another Ray version began, or one whose
        # checkpoints a user has deleted. The loop finds and checks its checkpoints by itself.
        storage.delete_file(storage.join(config.run_uri, SNAPSHOT))
        os.environ.update({key: value for key, value in SETTINGS.items() if key not in os.environ})
        self._trainer = TorchTrainer(
            run_worker,
            train_loop_config={"config": config.model_dump(mode="json"), "actor": actor, "group": number},
            torch_config=ReachableTorch(),
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers,
                use_gpu=config.scale.gpus_per_worker > 0,
                resources_per_worker=worker_resources(config.scale),
                placement_strategy="PACK",
            ),
            run_config=_run_config(config.name, config.storage.path, config.scale),
        )
        self._thread = threading.Thread(target=self._fit, name="fit", daemon=True)
        self._thread.start()

    def is_running(self) -> bool:
        """Return whether the group has not ended yet."""
        return self._thread.is_alive()

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:
            self.error = error


def _run_config(name: str, folder: str, scale: ScaleConfig) -> ray.train.RunConfig:
    filesystem, path = storage.open_uri(folder)
    return ray.train.RunConfig(  # type: ignore[call-arg]  # Ray's types describe its older API
        name=name,
        storage_path=path,
        storage_filesystem=filesystem,
        failure_config=ray.train.FailureConfig(  # type: ignore[call-arg]
            max_failures=0, controller_failure_limit=0, max_preemption_failures=0
        ),
        checkpoint_config=ray.train.CheckpointConfig(num_to_keep=states.KEEP),
        logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        worker_runtime_env={"env_vars": environment(scale)},
    )


def failure_reason(error: Exception) -> str:
    """Return in one line why a worker group failed."""
    failures = getattr(error, "worker_failures", {})
    # The death of a worker makes the others fail; it is the reason.
    died = [rank for rank, failure in failures.items() if hasattr(failure, "health_check_failure")]
    if died:
        return f"worker {died[0]} died"
    rank = min(failures, default=None)
    cause = getattr(error, "controller_failure", error) if rank is None else failures[rank]
    text = SOURCE_LINE.sub("", str(cause).strip().partition("\n")[0]).partition(". ")[0]
    return f"{'the workers' if rank is None else f'worker {rank}'} failed: {type(cause).__name__}: {text}"
