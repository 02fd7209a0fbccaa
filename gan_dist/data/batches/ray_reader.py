"""Reader of windows by Ray Data: its read tasks are windows of many epochs; no epoch restarts anything.

Every rank makes a dataset of its own. Read tasks reserve no CPU: they mostly wait for storage, a few run at a
time, and so they can never be locked out by the workers that wait for them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import chain, islice

import pyarrow as pa
import ray.data
from ray.data import Datasource, ReadTask
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


class RayDataReader(Reader):
    """Reads windows by Ray Data's tasks, anywhere in the cluster; the set is sent to them."""

    def __call__(self, windows: Iterable[Window], buffer: BatchBuffer, ahead: int) -> Iterator[WindowWriter]:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        planned = _plan_tasks(windows, min(TASK_ROWS, TASK_BYTES // self._images.manifest.image_bytes))
        while tasks := list(islice(planned, TASKS)):
            dataset = ray.data.read_datasource(
                ReadTasks([_read_task(self._images, task) for task in tasks]),
                num_cpus=0,
                concurrency=min(CONCURRENT_TASKS, len(tasks)),
                override_num_blocks=len(tasks),
            )
            tables = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=ahead)
            with plain_errors():
                for window, rows in _split_windows(chain.from_iterable(tasks), iter(tables)):
                    writer = buffer.writer(window)
                    writer.write(0, rows)
                    yield writer


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
    """Raise the user's error that made a task fail instead of Ray's, which is of both kinds.

    Ray takes one of its own that is handed to an actor for a failure of that call.

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
