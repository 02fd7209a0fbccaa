"""The order run by Ray Data: read tasks are windows planned over many epochs; no epoch restarts anything.

Every rank makes a dataset of its own. Read tasks reserve no CPU: they mostly wait for storage, a few run at a
time, and so they can never be locked out by the workers that wait for them.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator

import pyarrow as pa
import ray.data
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata

from gan_dist.data.manifest import ImageSet
from gan_dist.data.order import Window
from gan_dist.data.resident import read_window
from gan_dist.data.rows import Rows, rows_table, table_rows

TASK_BYTES = 32 * 2**20
CONCURRENT_TASKS = 2


class Streamed:
    """Yields windows that Ray Data's tasks read, anywhere in the cluster.

    Args:
        images: The set to read; it travels to the tasks.
    """

    def __init__(self, images: ImageSet) -> None:
        self._images = images

    def __call__(self, windows: Iterable[Window], ahead: int) -> Iterator[tuple[Window, Rows]]:
        planned = list(windows)
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context = ray.data.DataContext.get_current()
        context.execution_options.preserve_order = True
        context.enable_progress_bars = False
        plan = _Windows(self._images, planned)
        dataset = ray.data.read_datasource(
            plan, num_cpus=0, concurrency=min(CONCURRENT_TASKS, len(plan)), override_num_blocks=len(plan)
        )
        blocks = dataset.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=ahead)
        return _regroup(planned, blocks)


class _Windows(Datasource):
    """Windows as read tasks, in order; consecutive small ones share a task."""

    def __init__(self, images: ImageSet, windows: list[Window]) -> None:
        self._images = images
        manifest = images.manifest
        self._row_bytes = manifest.height * manifest.width * manifest.channels
        self._tasks = _portions(windows, max(1, TASK_BYTES // self._row_bytes))

    def __len__(self) -> int:
        return len(self._tasks)

    def estimate_inmemory_data_size(self) -> int:
        """Return the bytes of all tasks' pixels."""
        return sum(len(window) for task in self._tasks for window in task) * self._row_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        """Return one read task a portion, whatever the parallelism: the order is the plan's."""
        return [self._read_task(windows) for windows in self._tasks]

    def _read_task(self, windows: list[Window]) -> ReadTask:
        images = self._images
        rows = sum(map(len, windows))
        metadata = BlockMetadata(
            num_rows=rows, size_bytes=rows * self._row_bytes, input_files=None, exec_stats=None
        )

        def read() -> Iterator[pa.Table]:
            for window in windows:
                yield rows_table(read_window(images, window))

        return ReadTask(read, metadata)


def _portions(windows: list[Window], rows: int) -> list[list[Window]]:
    """Cut a list of windows into consecutive portions of about `rows` rows."""
    portions: list[list[Window]] = []
    held = rows
    for window in windows:
        if held >= rows:
            portions.append([])
            held = 0
        portions[-1].append(window)
        held += len(window)
    return portions


def _regroup(windows: list[Window], blocks: Iterable[pa.Table]) -> Iterator[tuple[Window, Rows]]:
    """Cut the rows of all blocks, which Ray may have merged or split, into windows again."""
    source = iter(blocks)
    held: list[Rows] = []
    for window in windows:
        while sum(map(len, held)) < len(window):
            held.append(table_rows(next(source)))
        rows = Rows.concatenate(held)
        yield window, rows[: len(window)]
        held = [rows[len(window) :]] if len(rows) > len(window) else []
