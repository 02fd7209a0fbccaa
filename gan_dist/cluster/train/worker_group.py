"""One worker group from its start to its end: `TorchTrainer.fit` in a thread."""

from __future__ import annotations

import os
import re
import threading
from typing import Any

import ray.train
from ray.train.torch import TorchTrainer

from gan_dist.cluster.nodes.placement import resources
from gan_dist.cluster.train import torch_backend
from gan_dist.cluster.train.worker import work
from gan_dist.config import RunConfig
from gan_dist.core import storage
from gan_dist.training import checkpoint as states

WHERE = re.compile(r"^\[[^]]*\] ")
"""The source line that errors of gloo begin with."""
SNAPSHOT = "checkpoint_manager_snapshot.json"
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    # Ray's would let workers train on until the deadline. The driver watches nodes itself.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
}


class WorkerGroup:
    """A worker group that trains, so that the main thread can show progress and hear signals.

    Ray starts none of it again: what to do after an end is the driver's to decide, which knows the progress
    made, the nodes that are left and what divides the batch.

    Args:
        config: The run.
        workers: How many there are.
        board: The handle of the actor that they report to.
        group: The number that it has given them.
    """

    def __init__(self, config: RunConfig, workers: int, board: Any, group: int) -> None:
        self.workers = workers
        self.error: Exception | None = None
        self._trainer = _trainer(config, workers, {"board": board, "group": group})
        self._thread = threading.Thread(target=self._fit, name="fit", daemon=True)
        self._thread.start()

    def running(self) -> bool:
        """Tell whether it has not ended yet."""
        return self._thread.is_alive()

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except Exception as error:
            self.error = error


def reason(error: Exception) -> str:
    """Return what made a worker group fail, in a line."""
    failures = getattr(error, "worker_failures", {})
    # A worker that died makes the others fail: that it died is the reason.
    died = [rank for rank, failure in failures.items() if hasattr(failure, "health_check_failure")]
    if died:
        return f"worker {died[0]} died"
    rank = min(failures, default=None)
    cause = getattr(error, "controller_failure", error) if rank is None else failures[rank]
    text = WHERE.sub("", str(cause).strip().partition("\n")[0]).partition(". ")[0]
    return f"{'the workers' if rank is None else f'worker {rank}'} failed: {type(cause).__name__}: {text}"


def _trainer(config: RunConfig, workers: int, reporting: dict[str, Any]) -> TorchTrainer:
    filesystem, path = storage.open_uri(config.storage.path)
    run_uri = config.run_uri
    states.prune(run_uri)
    # Ray's list of its checkpoints would refuse a run begun with another Ray version or one of which a user
    # has deleted a checkpoint. The loop finds its checkpoints by itself and checks them.
    storage.delete_file(storage.join(run_uri, SNAPSHOT))
    os.environ.update({key: value for key, value in SETTINGS.items() if key not in os.environ})
    return TorchTrainer(
        work,
        train_loop_config={"config": config.model_dump(mode="json"), **reporting},
        torch_config=torch_backend.ReachableTorch(),
        scaling_config=ray.train.ScalingConfig(
            num_workers=workers,
            use_gpu=config.scale.gpus_per_worker > 0,
            resources_per_worker=resources(config.scale),
            placement_strategy="PACK",
        ),
        run_config=ray.train.RunConfig(  # type: ignore[call-arg]  # Ray's types describe its older API
            name=config.name,
            storage_path=path,
            storage_filesystem=filesystem,
            failure_config=ray.train.FailureConfig(  # type: ignore[call-arg]
                max_failures=0, controller_failure_limit=0, max_preemption_failures=0
            ),
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=states.KEEP),
            logging_config=ray.train.LoggingConfig(log_level="ERROR"),
            worker_runtime_env={"env_vars": torch_backend.variables(config.scale)},
        ),
    )
