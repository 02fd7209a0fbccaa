"""The order run by Ray Data: read tasks are windows planned over many epochs; no epoch restarts anything.

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
from gan_dist.data.batches.readers import read_pieces
from gan_dist.data.order import Window
from gan_dist.data.shards.manifest import ImageSet
from gan_dist.data.shards.rows import Rows, rows_table, table_rows

TASK_BYTES = 32 * 2**20
"""What one task reads at most."""
TASK_ROWS = 8192
"""What it reads where images are small: it arrives when all is read, and training waits for the first."""
TASKS = 500
"""Tasks of one dataset: Ray plans all of them before the first runs. Then comes the next dataset."""
CONCURRENT_TASKS = 2


class RayDataReader:
    """Shows rows as Ray Data's tasks read them, anywhere in the cluster.

    Args:
        images: The set to read; it travels to the tasks.
    """

    def __init__(self, images: ImageSet) -> None:
        self._images = images

    def __call__(
        self, windows: Iterable[Window], assembly: BatchBuffer, ahead: int
    ) -> Iterator[WindowWriter]:
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        portions = _portions(windows, max(1, min(TASK_ROWS, TASK_BYTES // self._images.manifest.image_bytes)))
        while tasks := list(islice(portions, TASKS)):
            dataset = ray.data.read_datasource(
                _Windows(self._images, tasks),
                num_cpus=0,
                concurrency=min(CONCURRENT_TASKS, len(tasks)),
                override_num_blocks=len(tasks),
            )
            blocks = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=ahead)
            for window, rows in _regroup(chain.from_iterable(tasks), _plainly(blocks)):
                filling = assembly.filling(window)
                filling.put(0, rows)
                yield filling

    def empty(self, count: int) -> Rows:
        """Return room for so many rows."""
        return self._images.manifest.empty(count)

    def shown(self, rows: Rows) -> Rows:
        """Return the rows as they were put."""
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
        """Return the read tasks, whatever the parallelism: the order is the plan's."""
        return [self._read_task(windows) for windows in self._tasks]

    def _read_task(self, windows: list[Window]) -> ReadTask:
        images, manifest = self._images, self._images.manifest
        count = sum(map(len, windows))
        size = count * manifest.image_bytes
        metadata = BlockMetadata(num_rows=count, size_bytes=size, input_files=None, exec_stats=None)

        def read() -> Iterator[pa.Table]:
            for window in windows:
                rows = manifest.empty(len(window))
                for first, part in read_pieces(images, window.pieces):
                    rows.put(slice(first, first + len(part)), part)
                yield rows_table(rows)

        return ReadTask(read, metadata)


def _portions(windows: Iterable[Window], rows: int) -> Iterator[list[Window]]:
    """Yield consecutive windows in portions of at least `rows` rows, but for the last."""
    portion: list[Window] = []
    held = 0
    for window in windows:
        portion.append(window)
        held += len(window)
        if held >= rows:
            yield portion
            portion, held = [], 0
    if portion:
        yield portion


def _plainly(blocks: Iterable[pa.Table]) -> Iterator[pa.Table]:
    with plain_errors():
        yield from blocks


def _regroup(windows: Iterable[Window], blocks: Iterable[pa.Table]) -> Iterator[tuple[Window, Rows]]:
    """Cut the rows of all blocks, which Ray may have merged or split, into windows again."""
    source = iter(blocks)
    held: list[Rows] = []
    for window in windows:
        while sum(map(len, held)) < len(window):
            held.append(table_rows(next(source)))
        rows = Rows.concatenate(held)
        yield window, rows[: len(window)]
        held = [rows[len(window) :]] if len(rows) > len(window) else []


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
