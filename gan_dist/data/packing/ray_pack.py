"""Packing on a Ray cluster: each read task of Ray Data makes one shard.

Pixels never leave the task that decodes them; the driver gets reports: the number of decoded items, those
left out, and at last the shard's entry in the manifest.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pyarrow as pa
import ray
import ray.data
from ray.data import ReadTask
from ray.data.block import BlockMetadata

from gan_dist.core import storage
from gan_dist.core.memory import keep_freed_memory
from gan_dist.data.batches.ray_reader import ReadTasks, plain_errors
from gan_dist.data.packing.plan import Job, Plan, require_few_bad
from gan_dist.data.packing.sources.items import Source
from gan_dist.data.packing.task import Report, begin_packing, finish_packing, make_shard, write_record
from gan_dist.data.shards.manifest import Manifest


def pack(source: Source, dest: str, plan: Plan, max_bad: str, show: Callable[[int], None]) -> Manifest:
    """Make the set that a plan describes, or what is missing of it, on the cluster that is connected.

    `plan.finished_set` has accepted the folder `dest`; `max_bad` is how many images may be unusable, a number
    or a percentage; `show` gets the number of items that are decoded, those of an earlier run included.

    Raises:
        DataError: too many images cannot be used; what is finished stays.
        StorageError: something cannot be read or written; what is finished stays.
    """
    total = len(source.items) + len(source.rejected)
    records = begin_packing(dest, plan)
    jobs = plan.jobs()
    missing = [job for job in jobs if job.number not in records]
    bad = [*source.rejected, *(bad for record in records.values() for bad in record.quarantined)]
    require_few_bad(bad, total, max_bad)
    decoded = plan.images - sum(job.stop - job.start for job in missing)
    show(decoded)
    with plain_errors():
        for report in _reports(shard_tasks(source, dest, plan, missing)):
            if report.record is not None:
                write_record(dest, jobs[report.job], report.record)
                records[report.job] = report.record
            decoded += report.decoded
            show(decoded)
            bad += report.rejected
            require_few_bad(bad, total, max_bad)
    return finish_packing(dest, plan, source, records)


def _reports(tasks: list[ReadTask]) -> Iterator[Report]:
    if not tasks:
        return
    for handler in logging.getLogger("ray.data").handlers:
        if isinstance(handler, logging.StreamHandler):
            # Ray Data's own files keep its account; what a user must know is said here.
            handler.setLevel(logging.CRITICAL + 1)
    with _blocks_as_they_come():
        dataset = ray.data.read_datasource(ReadTasks(tasks), num_cpus=1, override_num_blocks=len(tasks))
        for bundle in dataset.iter_internal_ref_bundles():
            for block in bundle.blocks:
                for text in ray.get(block.ref)["report"].to_pylist():
                    yield Report.model_validate_json(text)


@contextmanager
def _blocks_as_they_come() -> Iterator[None]:
    """Let tasks hand over every report by itself: progress does not wait for a task's end."""
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    before = context.target_max_block_size
    context.target_max_block_size = 1
    try:
        yield
    finally:
        context.target_max_block_size = before  # it is the process's, which may train next


def shard_tasks(source: Source, dest: str, plan: Plan, jobs: list[Job]) -> list[ReadTask]:
    """Return a task for each job: it makes the shard and yields its reports."""
    largest = max(int(node["Resources"].get("CPU", 0)) for node in ray.nodes() if node["Alive"])
    threads = threads_of(len(jobs), int(ray.available_resources().get("CPU", 0)), largest)
    return [_shard_task(source, dest, plan, job, count) for job, count in zip(jobs, threads, strict=True)]


def _shard_task(source: Source, dest: str, plan: Plan, job: Job, threads: int) -> ReadTask:
    origin, items, options = source.origin, source.items[job.start : job.stop], storage.options()

    def read() -> Iterator[pa.Table]:
        storage.configure(options)
        keep_freed_memory()  # the process makes the next shard in the memory of this one
        for report in make_shard(origin, plan, job, items, dest, threads):
            yield pa.table({"report": [report.model_dump_json()]})

    return ReadTask(read, BlockMetadata(num_rows=None, size_bytes=1024, input_files=None, exec_stats=None))


def threads_of(shards: int, free: int, largest: int) -> list[int]:
    """Return how many images each shard's task decodes at a time.

    One, but for the shards that are left when every CPU has had the same number: there, CPUs that have no
    shard of their own help, as far as a node reaches. No task waits for several to be free at once.

    `free` are the cluster's CPUs that nothing else uses, `largest` those of its largest node.
    """
    left = shards % max(1, free)
    helped = max(1, min(free // max(1, left), largest))
    return [1] * (shards - left) + [helped] * left
