"""Making of a packed set: its shards, one a task, the records of finished ones, and its end. No Ray.

DEST/pack.json               the plan, written first
DEST/shard-00000.parquet     the usable images of one job
DEST/.pack/shard-00000.json  record of a finished shard and of what it left out; removed at the end
DEST/quarantine.jsonl        every image that was left out, and why
DEST/manifest.json           written last: the set is complete
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import lru_cache
from typing import NamedTuple

import PIL
from pydantic import BaseModel, ConfigDict, ValidationError

from gan_dist.core import storage
from gan_dist.core.errors import DataError, StorageError
from gan_dist.core.threads import map_ahead
from gan_dist.data.packing.decode import Decoded, RejectedError, decode
from gan_dist.data.packing.plan import PLAN, Job, Plan
from gan_dist.data.packing.resize import resizer
from gan_dist.data.packing.sources.items import Item, Origin, Reader, Rejection, Source
from gan_dist.data.shards.manifest import MANIFEST, Manifest, ShardInfo
from gan_dist.data.shards.rows import Rows
from gan_dist.data.shards.shard_set import write_shard
from gan_dist.data.shards.verify import sha256_of

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


class Report(BaseModel):
    """Progress with a shard since its report before; the last report has the shard's record."""

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
    """Decode a shard's items and write the shard, yielding the same reports in every run.

    Args:
        origin: Where the items are.
        plan: The plan of the set.
        job: The shard.
        items: The job's items.
        dest: The set's folder.
        threads: Images decoded at a time; Pillow releases the interpreter while it decodes.

    Raises:
        DataError: this process decodes or resizes with another library, or version of it, than the plan's.
        StorageError: something cannot be read or written.
    """
    _require_libraries(plan)
    rows = Rows.empty(len(items), plan.row_bytes, labelled=plan.classes is not None)
    rejected: list[Rejection] = []
    usable = enlarged = reported = 0
    every = _report_every(items)
    with ExitStack() as stack:
        for done, (item, outcome) in enumerate(_decoded(stack, origin, plan, items, threads), start=1):
            if isinstance(outcome, Decoded):
                rows.pixels[usable] = outcome.pixels.reshape(-1)
                if rows.labels is not None:
                    rows.labels[usable] = item.label
                usable += 1
                enlarged += outcome.enlarged
            else:
                rejected.append(Rejection(item.name, str(outcome)))
            if done % every == 0 and done < len(items):
                yield Report(job=job.number, decoded=every, rejected=tuple(rejected[reported:]), record=None)
                reported = len(rejected)
    info = write_shard(dest, job.file, rows[:usable], plan.group_rows) if usable else None
    record = ShardRecord(info=info, enlarged=enlarged, quarantined=tuple(rejected))
    left = len(items) - (len(items) - 1) // every * every
    yield Report(job=job.number, decoded=left, rejected=tuple(rejected[reported:]), record=record)


def _require_libraries(plan: Plan) -> None:
    pillow, here = f"Pillow {plan.pillow}", f"Pillow {PIL.__version__}"
    resizing = resizer(plan.filter)
    for verb, planned, present in (("decodes", pillow, here), ("resizes", plan.resizer, resizing)):
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
    """Return a source's reader; a process uses it for all its shards, with its open files."""
    return origin.open()


def _decoded(
    stack: ExitStack, origin: Origin, plan: Plan, items: list[Item], threads: int
) -> Iterator[tuple[Item, Decoded | RejectedError]]:
    """Yield each item with its pixels or the reason for its rejection, in order."""
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


def begin_packing(dest: str, plan: Plan) -> dict[int, ShardRecord]:
    """Write the plan, unless it is there, and return the shards that are finished, by number.

    A finished shard counts only where its file still has the recorded hash.
    """
    if PLAN not in storage.list_names(dest):
        storage.write_bytes(storage.join(dest, PLAN), _json(plan))
    state = storage.join(dest, STATE)
    present = set(storage.list_names(state))

    def read(job: Job) -> tuple[int, ShardRecord | None]:
        name = _record_name(job)
        if name not in present:
            return job.number, None
        try:
            record = ShardRecord.model_validate_json(storage.read_bytes(storage.join(state, name)))
            info = record.info
            whole = info is None or sha256_of(storage.join(dest, info.file), info.bytes) == info.sha256
        except (ValidationError, StorageError):
            whole = False
        return job.number, record if whole else None

    with ThreadPoolExecutor(HASHERS) as pool:
        return {number: record for number, record in pool.map(read, plan.jobs()) if record is not None}


def write_record(dest: str, job: Job, record: ShardRecord) -> None:
    """Record a finished shard."""
    storage.write_bytes(storage.join(dest, STATE, _record_name(job)), _json(record))


def _record_name(job: Job) -> str:
    return f"shard-{job.number:05d}.json"


def finish_packing(dest: str, plan: Plan, source: Source, records: dict[int, ShardRecord]) -> Manifest:
    """Write the quarantine and, last, the manifest; then remove the records of finished shards.

    Raises:
        DataError: not one image could be used.
    """
    done = [records[job.number] for job in plan.jobs()]
    shards = tuple(record.info for record in done if record.info is not None)
    bad = [*source.rejected, *(rejection for record in done for rejection in record.quarantined)]
    if not shards:
        raise DataError(
            f"none of {len(bad)} images can be used", f"the first, {bad[0].path}: {bad[0].reason}"
        )
    lines = [json.dumps(rejection._asdict()) + "\n" for rejection in bad]
    storage.write_bytes(storage.join(dest, QUARANTINE), "".join(lines).encode())
    manifest = Manifest(
        height=plan.resolution,
        width=plan.resolution,
        channels=plan.channels,
        count=sum(sum(shard.row_groups) for shard in shards),
        classes=plan.classes,
        shards=shards,
        source=plan.source,
        packer_version=plan.packer,
        settings={
            "filter": plan.filter,
            "crop": "centre",
            "pillow": plan.pillow,
            "resizer": plan.resizer,
            "quarantined": str(len(bad)),
            "enlarged": str(sum(record.enlarged for record in done)),
        },
    )
    storage.write_bytes(storage.join(dest, MANIFEST), _json(manifest))
    remove_leftovers(dest)
    return manifest


def remove_leftovers(dest: str) -> None:
    """Remove the records of finished shards, and partial files of processes that were killed."""
    storage.delete_tree(storage.join(dest, STATE))
    for name in storage.list_names(dest):
        if name.startswith(".") and name.endswith(".partial"):
            storage.delete_file(storage.join(dest, name))


def _json(model: BaseModel) -> bytes:
    return (json.dumps(model.model_dump(mode="json"), indent=1) + "\n").encode()
