"""The packing run by Ray: Ray Data decodes pieces of shards, each on one CPU; one task a shard writes it.

Pixels go from the tasks that decode to those that write through the object store, never through the driver,
which only counts blocks: every item becomes one row, in order, so that the place in the stream says which
shard a block belongs to. An image that cannot be used is a row with a reason; content makes no task fail.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import PIL
import pyarrow as pa
import pyarrow.compute as pc
import ray
import ray.data
from ray.data import Datasource, ReadTask
from ray.data.block import BlockMetadata
from ray.exceptions import RayTaskError

from gan_dist.data import packstate
from gan_dist.data.decode import RejectedError, decode
from gan_dist.data.manifest import Manifest
from gan_dist.data.packplan import Job, Plan, items_of, require_few_bad
from gan_dist.data.packstate import ShardRecord
from gan_dist.data.rows import Rows, rows_table, table_rows
from gan_dist.data.shards import write_shard
from gan_dist.data.sources.items import Item, Origin, Reader, Rejection, Source
from gan_dist.errors import DataError, GanDistError

# Between two tasks a CPU waits some 0.1 s for the driver, so tasks are long; but not so few that CPUs idle,
# nor so large that what later tasks have decoded, and which waits for its turn, fills the memory.
TASK_ITEMS = 4096
TASK_BYTES = 64 * 2**20
TASKS_PER_CPU = 4
BLOCK_ITEMS = 128
BLOCK_BYTES = 4 * 2**20
CPUS_PER_WRITER = 8


def pack(source: Source, dest: str, plan: Plan, max_bad: str, show: Callable[[int], None]) -> Manifest:
    """Make the set that a plan describes, or what is missing of it, on the cluster that is connected.

    Args:
        source: What the plan was made for.
        dest: The folder to write to; `packstate.finished_set` has been asked whether it is this plan's.
        plan: What to make.
        max_bad: How many images may be unusable, a number or a percentage.
        show: Called with the number of items that are decoded, those of an earlier run included.

    Raises:
        DataError: too many images cannot be used; what is finished stays.
        StorageError: something cannot be read or written; what is finished stays.
    """
    total = len(source.items) + len(source.rejected)
    records = packstate.begin(dest, plan)
    jobs = [job for job in plan.jobs() if job.number not in records]
    bad = [*source.rejected, *(bad for record in records.values() for bad in record.quarantined)]
    require_few_bad(bad, total, max_bad)
    earlier = plan.images - sum(job.stop - job.start for job in jobs)
    show(earlier)
    try:
        for job, record in _run(source, dest, plan, jobs, lambda decoded: show(earlier + decoded)):
            packstate.write_record(dest, job, record)
            records[job.number] = record
            bad += record.quarantined
            require_few_bad(bad, total, max_bad)
    except RayTaskError as error:
        raise _cause(error) from None
    return packstate.finish(dest, plan, source, records)


def _cause(error: BaseException) -> BaseException:
    """Return the user's error that made a task fail, or else the failure itself."""
    found: BaseException | None = error
    while found is not None:
        inner = getattr(found, "cause", None) or found.__cause__
        if isinstance(inner, GanDistError) and not isinstance(inner, RayTaskError):
            # Ray Data adds advice for its own callers to the message.
            return type(inner)(str(inner).partition("\nFailed to apply")[0])
        found = inner
    return error


def _run(
    source: Source, dest: str, plan: Plan, jobs: list[Job], show: Callable[[int], None]
) -> Iterator[tuple[Job, ShardRecord]]:
    """Decode and write shards; yields each when it is stored."""
    if not jobs:
        return
    write = ray.remote(num_cpus=0)(_write_shard)
    writers = max(2, int(ray.cluster_resources().get("CPU", 0)) // CPUS_PER_WRITER)
    writing: dict[Any, Job] = {}
    blocks = _decoded_blocks(source, plan, jobs)
    decoded = 0
    for job in jobs:
        held, rows = [], 0
        while rows < job.stop - job.start:
            block, count = next(blocks)
            held.append(block)
            rows += count
            show(decoded + rows)
        decoded += rows
        if len(writing) >= writers:
            yield from _stored(writing)
        writing[write.remote(dest, plan, job, *held)] = job
    while writing:
        yield from _stored(writing)


def _stored(writing: dict[Any, Job]) -> Iterator[tuple[Job, ShardRecord]]:
    """Wait for at least one shard, and take it and all others that are stored out of `writing`."""
    done, _ = ray.wait(list(writing), num_returns=1)
    for reference in done:
        yield writing.pop(reference), ray.get(reference)


def _decoded_blocks(source: Source, plan: Plan, jobs: list[Job]) -> Iterator[tuple[Any, int]]:
    """Yield references to blocks of decoded items, and their rows, in the items' order."""
    context = ray.data.DataContext.get_current()
    context.execution_options.preserve_order = True
    context.enable_progress_bars = False
    # A task hands over what it has decoded bit by bit: progress does not wait for its end.
    context.target_max_block_size = BLOCK_BYTES
    pieces = _Pieces(source, plan, jobs, _task_items(plan, jobs))
    dataset = ray.data.read_datasource(pieces, num_cpus=1, override_num_blocks=len(pieces))
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            # Ray Data's own files keep its account; what a user must know is said here.
            handler.setLevel(logging.CRITICAL + 1)
    for bundle in dataset.iter_internal_ref_bundles():
        for block in bundle.blocks:
            yield block.ref, block.metadata.num_rows


def _task_items(plan: Plan, jobs: list[Job]) -> int:
    """Return how many items one task decodes at most."""
    cpus = max(1, int(ray.cluster_resources().get("CPU", 1)))
    share = math.ceil(sum(job.stop - job.start for job in jobs) / (cpus * TASKS_PER_CPU))
    return max(1, min(TASK_ITEMS, TASK_BYTES // plan.row_bytes, share))


class _Pieces(Datasource):
    """Consecutive items of one shard as a read task."""

    def __init__(self, source: Source, plan: Plan, jobs: list[Job], size: int) -> None:
        self._origin, self._plan = source.origin, plan
        self._pieces = [piece for job in jobs for piece in items_of(source, job, size)]

    def __len__(self) -> int:
        return len(self._pieces)

    def estimate_inmemory_data_size(self) -> int:
        """Return the bytes of all pixels."""
        return sum(map(len, self._pieces)) * self._plan.row_bytes

    def get_read_tasks(
        self, parallelism: int, per_task_row_limit: int | None = None, data_context: object = None
    ) -> list[ReadTask]:
        """Return one read task a piece, whatever the parallelism: the order is the plan's."""
        return [self._read_task(piece) for piece in self._pieces]

    def _read_task(self, items: list[Item]) -> ReadTask:
        origin, plan = self._origin, self._plan
        metadata = BlockMetadata(
            num_rows=len(items), size_bytes=len(items) * plan.row_bytes, input_files=None, exec_stats=None
        )
        return ReadTask(lambda: _decode_piece(origin, plan, items), metadata)


@dataclass
class _Outcome:
    """What became of items: one entry an item in each list."""

    paths: list[str | None]
    reasons: list[str | None]
    enlarged: list[bool]


@lru_cache(maxsize=1)
def _reader(origin: Origin) -> Reader:
    """Return a source's reader, which a worker keeps from piece to piece with its open files."""
    return origin.open()


def _decode_piece(origin: Origin, plan: Plan, items: list[Item]) -> Iterator[pa.Table]:
    """Yield a row for each item: its pixels and label, or its path and the reason why it is not used."""
    if plan.pillow != PIL.__version__:
        raise DataError(
            f"this node decodes with Pillow {PIL.__version__}, the plan was made with {plan.pillow}; "
            "install the same version on every node"
        )
    read = _reader(origin)
    size = max(1, min(BLOCK_ITEMS, BLOCK_BYTES // plan.row_bytes))
    for start in range(0, len(items), size):
        yield _decode_block(read, plan, items[start : start + size])


def _decode_block(read: Reader, plan: Plan, items: list[Item]) -> pa.Table:
    pixels = np.zeros((len(items), plan.row_bytes), dtype=np.uint8)
    labels = np.array([item.label for item in items], dtype=np.int64)
    outcome = _Outcome([], [], [])
    for row, item in zip(pixels, items, strict=True):
        path = reason = None
        enlarged = False
        try:
            decoded = decode(read(item), plan.decoding)
            row[:] = decoded.pixels.reshape(-1)
            enlarged = decoded.enlarged
        except RejectedError as error:
            path, reason = item.name, str(error)
        outcome.paths.append(path)
        outcome.reasons.append(reason)
        outcome.enlarged.append(enlarged)
    table = rows_table(Rows(pixels, labels))
    table = table.append_column("path", pa.array(outcome.paths, pa.string()))
    table = table.append_column("reason", pa.array(outcome.reasons, pa.string()))
    return table.append_column("enlarged", pa.array(outcome.enlarged))


def _write_shard(dest: str, plan: Plan, job: Job, *blocks: pa.Table) -> ShardRecord:
    """Write the usable rows of a shard's blocks as one file."""
    table = pa.concat_tables(blocks)
    if len(table) != job.stop - job.start:
        raise RuntimeError(f"shard {job.number} got {len(table)} rows for items [{job.start}, {job.stop})")
    rejected = table.select(["path", "reason"]).filter(pc.is_valid(table["reason"])).to_pylist()
    kept = table.filter(pc.is_null(table["reason"])) if rejected else table
    enlarged = pc.sum(table["enlarged"]).as_py()
    bad = tuple(Rejection(**row) for row in rejected)
    if not len(kept):
        return ShardRecord(info=None, enlarged=enlarged, quarantined=bad)
    rows = table_rows(kept.select(["pixels", "label"]))
    if plan.classes is None:
        rows = Rows(rows.pixels, None)
    info = write_shard(dest, job.file, rows, plan.group_rows)
    return ShardRecord(info=info, enlarged=enlarged, quarantined=bad)
