"""One shard from its items: read, decode, write, reporting on the way. No Ray."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from functools import lru_cache
from typing import NamedTuple

import PIL
from pydantic import BaseModel, ConfigDict

from gan_dist.core.errors import DataError
from gan_dist.core.threads import map_ahead
from gan_dist.data.packing.decode import Decoded, RejectedError, decode
from gan_dist.data.packing.plan import Job, Plan
from gan_dist.data.packing.progress import ShardRecord
from gan_dist.data.packing.resize import resizer
from gan_dist.data.packing.sources.items import Item, Origin, Reader, Rejection
from gan_dist.data.shards.rows import Rows
from gan_dist.data.shards.shard_set import write_shard

REPORT_BYTES = 4 * 2**20
REPORT_ITEMS = 512


class Report(BaseModel):
    """What was done for a shard since the report before; the last one has its record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: int
    decoded: int
    rejected: tuple[Rejection, ...]
    record: ShardRecord | None


class _Content(NamedTuple):
    item: Item
    content: bytes | RejectedError


def make_shard(
    origin: Origin, plan: Plan, job: Job, items: list[Item], dest: str, threads: int
) -> Iterator[Report]:
    """Decode a shard's items, `items`, and write it, yielding the same reports in every run.

    Args:
        origin: Where the items are.
        plan: What the shard is part of.
        job: Which shard it is.
        items: The job's items.
        dest: The set's folder.
        threads: Images decoded at a time; Pillow lets go of the interpreter while it decodes.

    Raises:
        DataError: this process decodes or resizes with another library, or version of it, than the plan's.
        StorageError: something cannot be read or written.
    """
    _require_the_plans_libraries(plan)
    rows = Rows.empty(len(items), plan.row_bytes, labelled=plan.classes is not None)
    rejected: list[Rejection] = []
    kept = enlarged = reported = 0
    every = _report_every(items)
    with ExitStack() as stack:
        for done, (item, outcome) in enumerate(_decoded(stack, origin, plan, items, threads), start=1):
            if isinstance(outcome, Decoded):
                rows.pixels[kept] = outcome.pixels.reshape(-1)
                if rows.labels is not None:
                    rows.labels[kept] = item.label
                kept += 1
                enlarged += outcome.enlarged
            else:
                rejected.append(Rejection(item.name, str(outcome)))
            if done % every == 0 and done < len(items):
                yield Report(job=job.number, decoded=every, rejected=tuple(rejected[reported:]), record=None)
                reported = len(rejected)
    info = write_shard(dest, job.file, rows[:kept], plan.group_rows) if kept else None
    record = ShardRecord(info=info, enlarged=enlarged, quarantined=tuple(rejected))
    left = len(items) - (len(items) - 1) // every * every
    yield Report(job=job.number, decoded=left, rejected=tuple(rejected[reported:]), record=record)


def _require_the_plans_libraries(plan: Plan) -> None:
    pillow, here = f"Pillow {plan.pillow}", f"Pillow {PIL.__version__}"
    resizing = resizer(plan.filter)
    for verb, planned, present in (("decodes", pillow, here), ("resizes", plan.resizer, resizing)):
        if planned != present:
            raise DataError(
                f"this node {verb} with {present}, the plan was made with {planned}",
                "install the same version on every node",
            )


def _report_every(items: list[Item]) -> int:
    """Return after how many items to report: sooner where files are large, always at the same places."""
    size = sum(item.size for item in items) / len(items)
    return max(1, min(REPORT_ITEMS, int(REPORT_BYTES / size))) if size else REPORT_ITEMS


@lru_cache(maxsize=1)
def _reader(origin: Origin) -> Reader:
    """Return a source's reader, which a process keeps from shard to shard with its open files."""
    return origin.open()


def _decoded(
    stack: ExitStack, origin: Origin, plan: Plan, items: list[Item], threads: int
) -> Iterator[tuple[Item, Decoded | RejectedError]]:
    """Yield what became of each item, in order."""
    read = _reader(origin)

    def fetch(item: Item) -> _Content:
        try:
            return _Content(item, read(item))
        except RejectedError as error:
            return _Content(item, error)

    def convert(fetched: _Content) -> tuple[Item, Decoded | RejectedError]:
        item, content = fetched
        if isinstance(content, RejectedError):
            return item, content
        try:
            return item, decode(content, plan.decoding)
        except RejectedError as error:
            return item, error

    contents = map_ahead(stack, fetch, items, origin.readers)
    return map_ahead(stack, convert, contents, threads)
