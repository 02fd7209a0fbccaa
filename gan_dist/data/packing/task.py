"""Making of a packed set: its shards, one a task, the records of finished ones, and its end. No Ray.

DEST/pack.json               the plan, written first
DEST/shard-00000.parquet     the usable images of one job
DEST/.pack/shard-00000.json  record of a finished shard and of what it left out; removed at the end
DEST/quarantine.jsonl        every image that was left out, and why
DEST/manifest.json           written last: the set is complete
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import lru_cache

import PIL
from pydantic import BaseModel, ConfigDict, ValidationError

from gan_dist.core import storage
from gan_dist.core.errors import DataError, StorageError
from gan_dist.core.threads import map_ahead
from gan_dist.data.packing.decode import Decoded, RejectedError, decode
from gan_dist.data.packing.plan import PLAN, Job, Plan
from gan_dist.data.packing.resize import resizer
from gan_dist.data.packing.sources.items import Item, Origin, Reader, Rejection, Source
from gan_dist.data.shards.manifest import MANIFEST, Manifest, ShardInfo, to_json
from gan_dist.data.shards.rows import Rows
from gan_dist.data.shards.shard_set import write_shard
from gan_dist.data.shards.verify import sha256_of

LOG = logging.getLogger("gan_dist")
STATE = ".pack"
QUARANTINE = "quarantine.jsonl"
HASHERS = 4
REPORT_BYTES = 4 * 2**20
REPORT_ITEMS = 512


class ShardRecord(BaseModel):
    """A finished shard; `info` is None where none of its images is usable."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    info: ShardInfo | None
    enlarged: int
    """Images that were smaller than the resolution."""
    quarantined: tuple[Rejection, ...]
    dark: int = 0
    """Images that use at most 12 of 16 bits, and declare no other depth."""


class Report(BaseModel):
    """Progress with a shard since its report before; the last report has the shard's record."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    job: int
    decoded: int
    rejected: tuple[Rejection, ...]
    record: ShardRecord | None


def make_shard(
    origin: Origin, plan: Plan, job: Job, items: list[Item], dest: str, threads: int
) -> Iterator[Report]:
    """Decode a job's items and write the shard, yielding the same reports in every run.

    `threads` is how many images are decoded at a time; Pillow releases the interpreter while it decodes.

    Raises:
        DataError: this process decodes or resizes with another library, or version of it, than the plan's.
        StorageError: something cannot be read or written.
    """
    _require_libraries(plan)
    rows = Rows.empty(len(items), plan.row_bytes, labelled=plan.classes is not None)
    rejected: list[Rejection] = []
    usable = enlarged = dark = reported = 0
    every = _report_every(items)
    with ExitStack() as stack:
        outcomes = _decoded(stack, origin, plan, items, threads)
        for done, (item, outcome) in enumerate(zip(items, outcomes, strict=True), start=1):
            if isinstance(outcome, Decoded):
                rows.pixels[usable] = outcome.pixels.reshape(-1)
                if rows.labels is not None:
                    rows.labels[usable] = item.label
                usable += 1
                enlarged += outcome.enlarged
                dark += outcome.dark
            else:
                rejected.append(Rejection(item.name, str(outcome)))
            if done % every == 0 and done < len(items):
                yield Report(job=job.number, decoded=every, rejected=tuple(rejected[reported:]), record=None)
                reported = len(rejected)
    info = write_shard(dest, job.file, rows[:usable], plan.group_rows) if usable else None
    record = ShardRecord(info=info, enlarged=enlarged, quarantined=tuple(rejected), dark=dark)
    left = len(items) - (len(items) - 1) // every * every
    yield Report(job=job.number, decoded=left, rejected=tuple(rejected[reported:]), record=record)


def _require_libraries(plan: Plan) -> None:
    for verb, planned, present in (
        ("decodes", f"Pillow {plan.pillow}", f"Pillow {PIL.__version__}"),
        ("resizes", plan.resizer, resizer(plan.filter, plan.channels)),
    ):
        if planned != present:
            raise DataError(
                f"this node {verb} with {present}, the plan was made with {planned}",
                "install the same version on every node",
            )


def _report_every(items: list[Item]) -> int:
    """Return the number of items between reports: fewer where files are large, the same in every run."""
    size = sum(item.size for item in items) / len(items)
    return max(1, min(REPORT_ITEMS, int(REPORT_BYTES / size))) if size else REPORT_ITEMS


@lru_cache(maxsize=1)
def _reader(origin: Origin) -> Reader:
    return origin.open()  # a process uses it for all its shards, with its open files


def _decoded(
    stack: ExitStack, origin: Origin, plan: Plan, items: list[Item], threads: int
) -> Iterator[Decoded | RejectedError]:
    """Yield each item's pixels or the reason for its rejection, in order."""
    read = _reader(origin)

    def fetch(item: Item) -> bytes | RejectedError:
        try:
            return read(item)
        except RejectedError as error:
            return error

    def convert(content: bytes | RejectedError) -> Decoded | RejectedError:
        try:
            return content if isinstance(content, RejectedError) else decode(content, plan.decoding)
        except RejectedError as error:
            return error

    contents = map_ahead(stack, fetch, items, origin.readers)
    return map_ahead(stack, convert, contents, threads)


def begin_packing(dest: str, plan: Plan) -> dict[int, ShardRecord]:
    """Write the plan, unless it is there, and return the shards that are finished, by number.

    A finished shard counts only where its file still has the recorded hash.
    """
    if PLAN not in storage.list_names(dest):
        storage.write_bytes(storage.join(dest, PLAN), to_json(plan))
    present = set(storage.list_names(storage.join(dest, STATE)))
    jobs = [job for job in plan.jobs() if job.record in present]

    def read(job: Job) -> ShardRecord | None:
        try:
            text = storage.read_bytes(storage.join(dest, STATE, job.record))
            info = (record := ShardRecord.model_validate_json(text)).info
            whole = info is None or sha256_of(storage.join(dest, info.file), info.bytes) == info.sha256
        except (ValidationError, StorageError):
            return None
        return record if whole else None

    with ThreadPoolExecutor(HASHERS) as pool:
        records = zip(jobs, pool.map(read, jobs), strict=True)
        return {job.number: record for job, record in records if record is not None}


def write_record(dest: str, job: Job, record: ShardRecord) -> None:
    """Record a finished shard."""
    storage.write_bytes(storage.join(dest, STATE, job.record), to_json(record))


def finish_packing(dest: str, plan: Plan, source: Source, records: dict[int, ShardRecord]) -> Manifest:
    """Write the quarantine and, last, the manifest; then remove the records of finished shards.

    Raises:
        DataError: not one image could be used.
    """
    done = [records[job.number] for job in plan.jobs()]
    shards = tuple(record.info for record in done if record.info is not None)
    bad = [*source.rejected, *(rejection for record in done for rejection in record.quarantined)]
    if not shards:
        raise DataError(f"none of {len(bad)} images can be used", f"the first, {bad[0]}")
    lines = "".join(json.dumps(rejection._asdict()) + "\n" for rejection in bad)
    storage.write_bytes(storage.join(dest, QUARANTINE), lines.encode())
    manifest = Manifest(
        height=plan.size.height,
        width=plan.size.width,
        channels=plan.channels,
        count=sum(sum(shard.row_groups) for shard in shards),
        classes=plan.classes,
        shards=shards,
        source=plan.source,
        packer_version=plan.packer,
        settings={
            "filter": plan.filter,
            **({"crop": "centre"} if plan.fit == "crop" else {"fit": plan.fit}),
            "pillow": plan.pillow,
            "resizer": plan.resizer,
            "quarantined": str(len(bad)),
            "enlarged": str(sum(record.enlarged for record in done)),
            **({"dark": str(dark)} if (dark := sum(record.dark for record in done)) else {}),
        },
    )
    storage.write_bytes(storage.join(dest, MANIFEST), to_json(manifest))
    remove_leftovers(dest)
    return manifest


def remove_leftovers(dest: str) -> None:
    """Remove the records of finished shards, and partial files of processes that were killed.

    The set is whole without that: a store that refuses is warned of.
    """
    try:
        storage.delete_tree(storage.join(dest, STATE))
        for name in storage.list_names(dest):
            if name.startswith(".") and name.endswith(".partial"):
                storage.delete_file(storage.join(dest, name))
    except StorageError as error:
        LOG.warning("warning: what the packing no longer needs stays in its folder: %s", error)
