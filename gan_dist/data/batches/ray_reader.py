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
from gan_dist.data.batches.readers import read_slices
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


class RayDataReader:
    """Reads windows by Ray Data's tasks, anywhere in the cluster.

    Args:
        images: The set; it is sent to the tasks.
    """

    def __init__(self, images: ImageSet) -> None:
        self._images = images

    def __call__(self, windows: Iterable[Window], buffer: BatchBuffer, ahead: int) -> Iterator[WindowWriter]:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        planned = _plan_tasks(
            windows, max(1, min(TASK_ROWS, TASK_BYTES // self._images.manifest.image_bytes))
        )
        while tasks := list(islice(planned, TASKS)):
            dataset = ray.data.read_datasource(
                _Windows(self._images, tasks),
                num_cpus=0,
                concurrency=min(CONCURRENT_TASKS, len(tasks)),
                override_num_blocks=len(tasks),
            )
            tables = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=ahead)
            for window, rows in _split_windows(chain.from_iterable(tasks), _unwrapped(tables)):
                writer = buffer.writer(window)
                writer.write(0, rows)
                yield writer

    def empty(self, count: int) -> Rows:
        """Allocate rows."""
        return self._images.manifest.empty(count)

    def to_images(self, rows: Rows) -> Rows:
        """Return the rows as they are."""
        return rows


class _Windows(Datasource):
    """Read tasks, in order: the windows that each reads."""

    def __init__(self, images: ImageSet, tasks: list[list[Window]]) -> None:
        self._images, self._tasks = images, tasks

    def __len__(self) -> int:
        return len(self._tasks)

    def estimate_inmemory_data_size(self) -> int:
        """Return the bytes of all tasks' pixels."""
        return sum(len(window) for task in self._tasks for window in task) * self._images.manifest.image_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        """Return the read tasks, whatever the parallelism asked for."""
        return [self._read_task(windows) for windows in self._tasks]

    def _read_task(self, windows: list[Window]) -> ReadTask:
        images, manifest = self._images, self._images.manifest
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


def _unwrapped(tables: Iterable[pa.Table]) -> Iterator[pa.Table]:
    with plain_errors():
        yield from tables


def _split_windows(windows: Iterable[Window], tables: Iterable[pa.Table]) -> Iterator[tuple[Window, Rows]]:
    """Split the rows of all tables, which Ray may have merged or split, into windows again."""
    source = iter(tables)
    read: list[Rows] = []
    for window in windows:
        while sum(map(len, read)) < len(window):
            read.append(table_rows(next(source)))
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
        raise _cause(error) from None


def _cause(error: BaseException) -> BaseException:
    """Return the user's error that made a task fail, or else the failure itself."""
    found: BaseException | None = error
    while found is not None:
        inner = getattr(found, "cause", None) or found.__cause__
        if isinstance(inner, GanDistError) and not isinstance(inner, RayTaskError):
            return inner
        found = inner
    return error
