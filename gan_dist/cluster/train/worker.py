"""What a worker of Ray Train does: the loop, in a context that reports to Ray and to the board."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ray
import ray.train
import torch
from ray.train.torch import get_device

from gan_dist.cluster.prometheus import Gauges
from gan_dist.cluster.train.status import StatusClient
from gan_dist.config import RunConfig
from gan_dist.core import storage
from gan_dist.core.distributed import broadcast_from_rank0
from gan_dist.core.errors import GanDistError, StorageError
from gan_dist.core.progress import Progress
from gan_dist.core.storage.hashed_folder import checkpoint_names
from gan_dist.training import checkpoint as states
from gan_dist.training.loop import train


def work(settings: dict[str, Any]) -> None:
    """Train; run in every worker."""
    board, group = settings["board"], settings["group"]
    board.join.remote(group, ray.get_runtime_context().get_node_id())
    config = RunConfig.model_validate(settings["config"])
    torch.set_num_threads(config.scale.threads)
    context = TrainContext(board, group, config.run_uri)
    try:
        # Asked to stop before it has begun, it has nothing to write.
        outcome = None if broadcast_from_rank0(context, context.stop_requested()) else train(config, context)
    except GanDistError as error:
        ray.get(board.tell.remote(group, failure=error))
        raise
    finally:
        context.close()
    if context.rank == 0:
        ray.get(board.tell.remote(group, outcome=outcome))


class TrainContext:
    """A Ray Train worker, as the loop sees it.

    Args:
        board: The handle of the actor that the driver reads.
        group: The number of the worker group.
        run_uri: The run's folder.
    """

    with_ray = True

    def __init__(self, board: Any, group: int, run_uri: str) -> None:
        context = ray.train.get_context()
        self.rank = context.get_world_rank()
        self.world_size = context.get_world_size()
        self.device: torch.device = get_device()
        self._board, self._run_uri = board, run_uri
        self._earlier = frozenset(checkpoint_names(run_uri)) if self.rank == 0 else frozenset()
        self._link = StatusClient(board, group) if self.rank == 0 else None
        self._gauges = Gauges(run_uri, self.rank, self.device)

    def progress(self, progress: Progress) -> None:
        self._gauges.tell(progress)
        if self._link:
            self._link.progress = progress

    def stop_requested(self) -> bool:
        return self._link is not None and self._link.stop

    def warn(self, sentence: str) -> None:
        self._board.warn.remote(sentence)

    def before_writing(self) -> None:
        if self._link:
            self._link.require_latest()

    def report(self, metrics: Mapping[str, object], checkpoint: Path | None, name: str) -> None:
        kept = None if checkpoint is None else ray.train.Checkpoint.from_directory(checkpoint)
        try:
            ray.train.report(
                dict(metrics),
                checkpoint=kept,
                checkpoint_dir_name=name or None,
                checkpoint_upload_fn=self._send if "://" in self._run_uri else None,
            )
        except OSError as error:
            raise StorageError(f"{self._run_uri}/{name} cannot be written: {error}") from error
        if checkpoint is not None:
            shutil.rmtree(checkpoint)
            # Ray deletes those that this worker group has written, and knows of no others.
            states.prune(self._run_uri, self._earlier)

    def _send(self, checkpoint: ray.train.Checkpoint, name: str) -> ray.train.Checkpoint:
        """Copy a checkpoint to a store, for which `storage.timeout_s` counts as for all else that is written.

        Ray would try for some seconds, and by words that pyarrow says and s3fs does not.
        """
        storage.copy_tree(checkpoint.path, storage.join(self._run_uri, name))
        kept_in = ray.train.get_context().get_storage()
        return ray.train.Checkpoint(kept_in.build_checkpoint_path_from_name(name), kept_in.storage_filesystem)

    def close(self) -> None:
        """Send the last progress and stop exchanging."""
        if self._link:
            self._link.close()
