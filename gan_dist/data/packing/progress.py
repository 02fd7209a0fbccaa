"""What is finished of a packing, and how the set is closed. No Ray.

DEST/pack.json               the plan, written first
DEST/shard-00000.parquet     what can be used of the items of one job
DEST/.pack/shard-00000.json  that the shard is finished, and what it left out; removed at the end
DEST/quarantine.jsonl        every image that was left out, and why
DEST/manifest.json           written last: the set is complete
"""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor

from pydantic import BaseModel, ConfigDict, ValidationError

from gan_dist.core import storage
from gan_dist.core.errors import DataError, StorageError
from gan_dist.core.storage import redact
from gan_dist.data.packing.plan import Job, Plan
from gan_dist.data.packing.sources.items import Rejection, Source
from gan_dist.data.shards.manifest import MANIFEST, Manifest, ShardInfo
from gan_dist.data.shards.verify import sha256_of

PLAN = "pack.json"
STATE = ".pack"
QUARANTINE = "quarantine.jsonl"
HASHERS = 4


class ShardRecord(BaseModel):
    """A finished shard; `info` is None where none of its images could be used."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    info: ShardInfo | None
    enlarged: int
    """Images that were smaller than the resolution."""
    quarantined: tuple[Rejection, ...]


def finished_set(dest: str, plan: Plan) -> Manifest | None:
    """Return the manifest of what this plan has made at `dest`, or None where it is not finished.

    Raises:
        DataError: there is something else at `dest`.
    """
    present = storage.list_names(dest)
    if PLAN not in present:
        others = [name for name in present if name == MANIFEST or name.endswith(".parquet")]
        if others:
            raise DataError(f"{redact(dest)} holds another set ({others[0]})", "choose another DEST")
        return None
    try:
        earlier = Plan.model_validate_json(storage.read_bytes(storage.join(dest, PLAN)))
    except ValidationError as error:
        raise DataError(
            f"{redact(dest)}/{PLAN} is not a plan of this version ({error.errors()[0]['msg']})",
            "delete the folder or choose another DEST",
        ) from None
    if differences := _differences(earlier, plan):
        raise DataError(
            f"{redact(dest)} was begun with another plan: {'; '.join(differences)}",
            "give the same options again, delete the folder, or choose another DEST",
        )
    if MANIFEST not in present:
        return None
    try:
        return Manifest.model_validate_json(storage.read_bytes(storage.join(dest, MANIFEST)))
    except ValidationError as error:
        raise DataError(
            f"{redact(dest)}/{MANIFEST} is not a manifest of this version ({error.errors()[0]['msg']})",
            "delete it, and the same command makes the set anew",
        ) from None


def _differences(earlier: Plan, plan: Plan) -> list[str]:
    old, new = earlier.model_dump(), plan.model_dump()
    changed = [key for key in new if old[key] != new[key]]
    listed = "items_sha256" in changed
    follows = {"items_sha256", "classes", *(["resizer"] if "filter" in changed else [])}
    plain = [key for key in changed if key not in follows]
    texts = [f"{key} was {old[key]} and is {new[key]}" for key in plain]
    if listed and "images" not in changed:
        texts.append("the images' names, sizes or labels have changed")
    if "classes" in changed and not listed:
        texts.append("the classes have other names")
    return texts


def begin(dest: str, plan: Plan) -> dict[int, ShardRecord]:
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
    """Note that a shard is finished."""
    storage.write_bytes(storage.join(dest, STATE, _record_name(job)), _json(record))


def _record_name(job: Job) -> str:
    return f"shard-{job.number:05d}.json"


def finish(dest: str, plan: Plan, source: Source, records: dict[int, ShardRecord]) -> Manifest:
    """Write the quarantine and, last, the manifest; then remove what only a continued run needs.

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
    tidy(dest)
    return manifest


def tidy(dest: str) -> None:
    """Remove what only a continued run needs, and the parts of files that a killed one left."""
    storage.delete_tree(storage.join(dest, STATE))
    for name in storage.list_names(dest):
        if name.startswith(".") and name.endswith(".partial"):
            storage.delete_file(storage.join(dest, name))


def _json(model: BaseModel) -> bytes:
    return (json.dumps(model.model_dump(mode="json"), indent=1) + "\n").encode()
