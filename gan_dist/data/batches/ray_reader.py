"""Reader of windows by Ray Data: its read tasks are windows of many epochs; no epoch restarts anything.

Every rank makes a dataset of its own. Read tasks reserve no CPU: they mostly wait for storage, a few run at a
time, and so they can never be locked out by the workers that wait for them.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice
from typing import Any

import pyarrow as pa
import ray.data
from ray.data import Datasource, ReadTask
from ray.data._internal import stats
from ray.data._internal.cluster_autoscaler import ClusterAutoscaler
from ray.data._internal.execution import streaming_executor
from ray.data._internal.execution.interfaces import ExecutionResources
from ray.data.block import BlockMetadata
from ray.exceptions import RayTaskError

from gan_dist.core.errors import GanDistError
from gan_dist.data.batches.buffer import BatchBuffer, WindowWriter
from gan_dist.data.batches.readers import Reader, read_slices
from gan_dist.data.order import Window
from gan_dist.data.shards.manifest import ImageSet
from gan_dist.data.shards.rows import Rows, rows_table, table_rows

TASK_BYTES = 32 * 2**20
"""Bytes that one task reads, at most."""
TASK_ROWS = 8192
"""Rows that one task reads of small images: they arrive together, and training waits for the first task."""
TASKS = 500
"""Tasks of one dataset: Ray plans all of them before the first runs. Then comes the next dataset."""
CONCURRENT_TASKS = 2
SMALL_TASK_BYTES = 2**20
"""Bytes of a task up to which one at a time is enough: it takes less time than to start another process."""


class RayDataReader(Reader):
    """Reads windows by Ray Data's tasks, anywhere in the cluster; the set is sent to them."""

    def __call__(self, windows: Iterable[Window], buffer: BatchBuffer, ahead: int) -> Iterator[WindowWriter]:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        _start_no_helpers()
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        image_bytes = self._images.manifest.image_bytes
        task_rows = min(TASK_ROWS, TASK_BYTES // image_bytes)
        concurrency = 1 if task_rows * image_bytes <= SMALL_TASK_BYTES else CONCURRENT_TASKS
        planned = _plan_tasks(windows, task_rows)
        while tasks := list(islice(planned, TASKS)):
            dataset = ray.data.read_datasource(
                ReadTasks([_read_task(self._images, task) for task in tasks]),
                num_cpus=0,
                concurrency=min(concurrency, len(tasks)),
                override_num_blocks=len(tasks),
            )
            tables = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=ahead)
            with plain_errors():
                for window, rows in _split_windows(chain.from_iterable(tasks), iter(tables)):
                    writer = buffer.writer(window)
                    writer.write(0, rows)
                    yield writer


def _start_no_helpers() -> None:
    """Keep Ray Data of this process from starting actors: for statistics, for usage, and to ask for nodes.

    Each is a process that imports Ray Data, on every cluster, and these readers need none of them.
    """
    os.environ["RAY_DATA_USAGE_DISABLED"] = "1"
    executors: Any = streaming_executor
    executors.create_cluster_autoscaler = lambda *_, **__: _Cluster()
    for name in ("register_dataset_to_stats_actor", "update_execution_metrics", "update_iteration_metrics"):
        setattr(stats._StatsManager, name, staticmethod(lambda *_, **__: None))


class _Cluster(ClusterAutoscaler):
    """The cluster as it is when a dataset begins: its tasks reserve no CPUs, so no nodes are asked for."""

    def __init__(self) -> None:
        self._resources: ExecutionResources = ExecutionResources.from_resource_dict(ray.cluster_resources())

    def try_trigger_scaling(self) -> None:
        pass

    def on_executor_shutdown(self) -> None:
        pass

    def get_total_resources(self) -> ExecutionResources:
        return self._resources


class ReadTasks(Datasource):
    """Tasks that are known beforehand, in order, whatever the parallelism that Ray asks for."""

    def __init__(self, tasks: list[ReadTask]) -> None:
        self._tasks = tasks

    def estimate_inmemory_data_size(self) -> int:
        return sum(task.metadata.size_bytes or 0 for task in self._tasks)

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        return self._tasks


def _read_task(images: ImageSet, windows: list[Window]) -> ReadTask:
    manifest = images.manifest
    count = sum(map(len, windows))
    size = count * manifest.image_bytes
    metadata = BlockMetadata(num_rows=count, size_bytes=size, input_files=None, exec_stats=None)

    def read() -> Iterator[pa.Table]:
        for window in windows:
            rows = manifest.empty(len(window))
            for first, part in read_slices(images, window.slices):
                rows.put(slice(first, first + len(part)), part)
            yield rows_table(rows)

    return ReadTask(read, metadata)


def _plan_tasks(windows: Iterable[Window], rows: int) -> Iterator[list[Window]]:
    """Yield the consecutive windows of each task: at least `rows` rows, but for the last task."""
    task: list[Window] = []
    count = 0
    for window in windows:
        task.append(window)
        count += len(window)
        if count >= rows:
            yield task
            task, count = [], 0
    if task:
        yield task


def _split_windows(windows: Iterable[Window], tables: Iterator[pa.Table]) -> Iterator[tuple[Window, Rows]]:
    """Split the rows of all tables, which Ray may have merged or split, into windows again."""
    read: list[Rows] = []
    for window in windows:
        while sum(map(len, read)) < len(window):
            read.append(table_rows(next(tables)))
        rows = Rows.concatenate(read)
        yield window, rows[: len(window)]
        read = [rows[len(window) :]] if len(rows) > len(window) else []


@contextmanager
def plain_errors() -> Iterator[None]:
    """Raise the GanDistError that made a task fail, in place of Ray's error around it.

    Ray's error is of both classes: handed to an actor, it would count as a failure of that call.

    Raises:
        GanDistError: what a task raised.
        RayTaskError: another failure of a task, as it came.
    """
    try:
        yield
    except RayTaskError as error:
        cause: BaseException | None = error
        while cause is not None and (isinstance(cause, RayTaskError) or not isinstance(cause, GanDistError)):
            cause = getattr(cause, "cause", None) or cause.__cause__
        raise cause or error from None
