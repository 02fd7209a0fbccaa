"""The workers of one start: the group as the driver sees it, and the process of each worker.

A worker's process has its environment, its network interface and the training loop.
"""

from __future__ import annotations

import asyncio
import math
import os
import re
import threading
import time
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import ray
import ray.train
import torch
from ray.train import CheckpointUploadMode
from ray.train.torch import TorchConfig, get_device

from gan_dist.cluster.connect import WORKER_ENVIRONMENT, callers, started_here
from gan_dist.cluster.nodes.placement import worker_resources
from gan_dist.cluster.prometheus import Gauges
from gan_dist.cluster.train.status import StatusClient
from gan_dist.cluster.train.trainer import Trainer
from gan_dist.config import RunConfig, ScaleConfig
from gan_dist.core import host, storage
from gan_dist.core.distributed import broadcast_from_rank0
from gan_dist.core.errors import GanDistError, StorageError
from gan_dist.training.loop import train
from gan_dist.training.progress import Progress

SOURCE_LINE = re.compile(r"^\[[^]]*\] ")
"""The source file and line at the start of gloo's errors (torch 2.11)."""
SNAPSHOT = "checkpoint_manager_snapshot.json"
CLOSE_S = 2.0
"""Seconds to wait for the end of workers that are killed: the interval of Ray's checks, and some more."""
SETTINGS = {
    "RAY_TRAIN_HEALTH_CHECK_INTERVAL_S": "1",
    # Ray's watcher would let workers train on until the deadline. The driver watches nodes itself.
    "RAY_TRAIN_ENABLE_PREEMPTION_WATCHER": "0",
    # This would set up the loggers of a whole process, and the controller is a guest in the driver's.
    "RAY_TRAIN_ENABLE_CONTROLLER_STRUCTURED_LOGGING": "0",
}


class WorkerGroup:
    """A worker group that trains in the background, while the main thread shows progress and handles signals.

    Ray restarts nothing: what follows an end is the driver's decision, which knows the progress, the nodes
    that are left and the numbers of workers that divide the batch.
    """

    def __init__(self, config: RunConfig, workers: int, actor: Any, number: int) -> None:
        self.workers = workers
        self.error: Exception | None = None
        # Ray's list of its checkpoints would refuse a run that another Ray version began, or one whose
        # checkpoints a user has deleted. The loop finds and checks its checkpoints by itself.
        with suppress(StorageError):  # most runs have none
            storage.delete_file(storage.join(config.run_uri, SNAPSHOT))
        os.environ.update({key: value for key, value in SETTINGS.items() if key not in os.environ})
        self._trainer = Trainer(
            run_worker,
            train_loop_config={"config": config.model_dump(mode="json"), "actor": actor, "group": number},
            torch_config=ReachableTorch(timeout_s=math.ceil(config.scale.collective_timeout_s)),
            scaling_config=ray.train.ScalingConfig(
                num_workers=workers,
                use_gpu=config.scale.gpus_per_worker > 0,
                resources_per_worker=worker_resources(config.scale),
                placement_strategy="PACK",
            ),
            run_config=_run_config(config.name, config.storage.path, config.scale),
        )
        self._thread = threading.Thread(target=self._fit, name="fit", daemon=True)
        callers.add(self._thread)
        self._thread.start()

    def is_running(self) -> bool:
        """Return whether the group has not ended yet."""
        return self._thread.is_alive()

    def close(self) -> None:
        """Kill the workers if they still run; those that start are killed once they have started."""
        self._trainer.cancel()
        self._thread.join(CLOSE_S)

    def _fit(self) -> None:
        try:
            self._trainer.fit()
        except asyncio.CancelledError:
            pass
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
        logging_config=ray.train.LoggingConfig(log_level="ERROR"),
        worker_runtime_env={"env_vars": env_vars} if (env_vars := environment(scale)) else {},
    )


def failure_reason(
    error: Exception, *, workers: int = 0, waiting: Collection[int] = (), timeout_s: float = math.inf
) -> str:
    """Return in one line why a worker group failed.

    `waiting` are the ranks, of `workers`, that have waited `timeout_s` for others in vain.
    """
    failures = getattr(error, "worker_failures", {})
    # The death of a worker makes the others fail; it is the reason.
    died = [rank for rank, failure in failures.items() if hasattr(failure, "health_check_failure")]
    if died:
        return f"worker {died[0]} died"
    if waiting and (absent := [rank for rank in range(workers) if rank not in waiting]):
        return (
            f"worker {', '.join(map(str, absent))} did not answer the others for {timeout_s:g} s "
            "(scale.collective_timeout_s)"
        )
    rank = min(failures, default=None)
    cause = getattr(error, "controller_failure", error) if rank is None else failures[rank]
    text = SOURCE_LINE.sub("", str(cause).strip().partition("\n")[0]).partition(". ")[0]
    return f"{'the workers' if rank is None else f'worker {rank}'} failed: {type(cause).__name__}: {text}"


TIMED_OUT = "Timed out waiting"
"""What gloo says when a worker has waited for another one in vain (torch 2.11 to 2.15)."""
OTHERS_S = 5.0
"""Seconds within which those that wait for the same worker stop waiting."""

_TorchBackend: Any = TorchConfig().backend_cls


def environment(scale: ScaleConfig) -> dict[str, str]:
    """Return the environment variables that a worker's process needs beside those that Ray gives it.

    If there are any, Ray starts a new process for it in place of one that is ready.
    """
    variables = {} if started_here() else dict(WORKER_ENVIRONMENT)
    if scale.threads > 1:  # Ray's own choice for actors is 1
        variables["OMP_NUM_THREADS"] = str(scale.threads)
    return variables


@dataclass
class ReachableTorch(TorchConfig):
    """Ray Train's set-up of torch.distributed, with network interfaces that other nodes can reach."""

    @property
    def backend_cls(self) -> type[_Backend]:
        return _Backend


class _Backend(_TorchBackend):  # type: ignore[misc]
    def on_start(self, worker_group: Any, backend_config: TorchConfig) -> None:
        if len(set(worker_group.execute(ray.util.get_node_ip_address))) > 1:
            worker_group.execute(use_reachable_interface)
        super().on_start(worker_group, backend_config)


def use_reachable_interface() -> None:
    """Set the interface of gloo and NCCL to one that other nodes can reach, unless a user has set it."""
    address = ray.util.get_node_ip_address()
    for variable, interface in interface_variables(address, host.own_address(), host.interfaces()).items():
        os.environ.setdefault(variable, interface)


def interface_variables(
    address: str, name_address: str | None, interfaces: Mapping[str, str]
) -> dict[str, str]:
    """Return the variables that set the interface to that of `address`, which other nodes can reach.

    gloo by itself uses `name_address`, to which the host's name resolves: on many machines the loopback. NCCL
    uses the first of all interfaces in an order of its own, which may be a virtual bridge.
    """
    interface = next((name for name, its in interfaces.items() if its == address), None)
    if interface is None:
        return {}
    nccl = {"NCCL_SOCKET_IFNAME": f"={interface}"}
    return nccl if name_address == address else {"GLOO_SOCKET_IFNAME": interface, **nccl}


def run_worker(settings: dict[str, Any]) -> None:
    """Train; run in every worker, with the configuration, the status actor and the worker group's number."""
    actor, group = settings["actor"], settings["group"]
    actor.add_node.remote(group, ray.get_runtime_context().get_node_id())
    config = RunConfig.model_validate(settings["config"])
    torch.set_num_threads(config.scale.threads)
    context = TrainContext(actor, group, config.run_uri)
    try:
        # A stop requested before the first step: there is nothing to write.
        stopped = broadcast_from_rank0(context, context.stop_requested())
        result = None if stopped else train(config, context)
    except GanDistError as error:
        ray.get(actor.update.remote(group, failure=error))
        raise
    except RuntimeError as error:
        if TIMED_OUT in str(error):
            ray.get(actor.add_waiting.remote(group, context.rank))
            time.sleep(OTHERS_S)  # this worker's failure ends the others
        raise
    finally:
        context.close()
    if context.rank == 0:
        ray.get(actor.update.remote(group, result=result))


class TrainContext:
    """A Ray Train worker as the loop's `Context`."""

    with_ray = True

    def __init__(self, actor: Any, group: int, run_uri: str) -> None:
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.device: torch.device = get_device()
        self._actor = actor
        self._client = StatusClient(actor, group) if self.rank == 0 else None
        self._gauges = Gauges(run_uri, self.rank, self.device)

    def progress(self, progress: Progress) -> None:
        self._gauges.update(progress)
        if self._client:
            self._client.progress = progress

    def stop_requested(self) -> bool:
        return self._client is not None and self._client.stop

    def warn(self, sentence: str) -> None:
        self._actor.warn.remote(sentence)

    def before_writing(self) -> None:
        if self._client:
            self._client.require_latest()

    def report(self, metrics: Mapping[str, object], checkpoint: str) -> None:
        # The loop has written it. Ray would retry for a few seconds, and only on messages of pyarrow, not of
        # s3fs; and it would delete old ones, but not those between evaluations.
        written = None
        if self.rank == 0 and checkpoint:
            place = ray.train.get_context().get_storage()
            path = place.build_checkpoint_path_from_name(checkpoint)
            written = ray.train.Checkpoint(path, place.storage_filesystem)
        mode = CheckpointUploadMode.NO_UPLOAD
        ray.train.report(dict(metrics), written, checkpoint or None, checkpoint_upload_mode=mode)

    def close(self) -> None:
        """Send the last progress and close the connection to the status actor."""
        if self._client:
            self._client.close()
