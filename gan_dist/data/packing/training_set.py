"""Sets that `gan-dist train IMAGES` packs for itself, kept beside the runs. No Ray.

STORAGE/.packed/NAME-0123456789ab/    a packed set, as `gan-dist pack` makes it
STORAGE/.packed/NAME-0123456789ab-2/  the same, packed again (--repack)
STORAGE/.packed/NAME-.../listing.gz   what it was packed from, to say later what has changed

The folder's name ends in a hash of the plan: of the listing, the options and the libraries that decode.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import shutil
import zlib
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from gan_dist.config import RunConfig
from gan_dist.config.fields import valid_name
from gan_dist.core import storage
from gan_dist.core.errors import DataError, GanDistError, StorageError
from gan_dist.core.json_text import parse_json
from gan_dist.core.storage.redaction import split_query
from gan_dist.data.builtin import PREFIX, open_builtin
from gan_dist.data.packing.decode import Decoding
from gan_dist.data.packing.plan import (
    PLAN,
    Plan,
    finished_set,
    make_plan,
    read_plan,
    relative_path,
    require_few_bad,
    require_whole,
)
from gan_dist.data.packing.resolution import choose_resolution
from gan_dist.data.packing.sources import open_source
from gan_dist.data.packing.sources.items import CONTAINER_SUFFIXES, Source, SourceOptions, counted, some
from gan_dist.data.packing.sources.torchvision_sets import TORCHVISION
from gan_dist.data.shards.manifest import MANIFEST, Manifest, ShardInfo, read_manifest

FOLDER = ".packed"
LISTING = "listing.gz"
LONGEST_LINE = 16 * 1024
"""Bytes of a listing for an image: a path of 4 KiB, as JSON writes it."""
SHARD_MB = 64.0
MAX_BAD = "1%"
SPARE_BYTES = 2**20
"""Disk space for the manifest, the listing and the records of shards."""


@dataclass(frozen=True)
class Packing:
    """A set that is to be packed, or whose packing is to go on."""

    source: Source
    plan: Plan


@dataclass(frozen=True)
class TrainingSet:
    """The set that a run trains on."""

    path: str
    """Its folder or URI: the value of `data.path`."""
    manifest: Manifest
    """What it holds; sizes only, as planned, where it is not packed yet."""
    packing: Packing | None = None
    notes: tuple[str, ...] = ()
    """Sentences that the user should read."""


@dataclass(frozen=True)
class Beginning:
    """Where a run is kept, and what it began with."""

    storage_path: str
    name: str
    config: RunConfig | None = None
    """Configuration of the run that is there; None if there is none."""

    @property
    def run_uri(self) -> str:
        """The run's folder."""
        return storage.join(self.storage_path, self.name)


class Wanted(NamedTuple):
    """What a user asks of the packed images; None where nothing is asked."""

    resolution: int | str | None = None
    fit: str | None = None
    channels: int | None = None


def source_name(uri: str) -> str:
    """Return a name for a run on images: that of their folder, archive or set, without its suffix."""
    last = split_query(uri)[0].rstrip("/").rpartition("/")[2]
    path = PurePosixPath(last.removesuffix(".gz"))
    return valid_name(path.stem if path.suffix.lower() in (".tgz", *CONTAINER_SUFFIXES) else last)


def is_packed(uri: str) -> bool:
    """Return whether a folder or prefix is a packed set, whose manifest may be damaged."""
    if not storage.exists(storage.join(uri, MANIFEST)):
        return False
    if storage.exists(storage.join(uri, PLAN)):
        return True
    try:
        read_manifest(uri)
    except DataError:
        return False  # other programs call files of theirs so, too
    return True


def find_training_set(
    uri: str, run: Beginning, wanted: Wanted, largest: int, *, repack: bool = False
) -> TrainingSet:
    """Return the set to train on: the images at a path or URI, packed or to be packed.

    A run that is continued keeps the set that it began with, even where the images have changed or are gone.
    Without a `wanted.resolution` the edge of squares is chosen, at most `largest`. With `repack` a set
    that is there already is not used: images that were edited in place look the same.

    Raises:
        DataError: there are no usable images, or they lie where the run will be written; or a run that has
            begun is to be packed again.
        StorageError: they cannot be read.
    """
    if repack and run.config is not None:
        raise DataError(
            f"{storage.redact(run.run_uri)} goes on with the images that it began with, so --repack makes a "
            "set for a run of its own",
            f"give that a name: name={run.name}-2",
            keys=("name",),
        )
    if uri.startswith(PREFIX):
        return TrainingSet(uri, open_builtin(uri).manifest)
    if not uri.startswith(TORCHVISION) and is_packed(uri):
        return TrainingSet(uri, read_manifest(uri))
    kept = kept_plan(uri, run, wanted)
    path = run.config.data.path if run.config and kept else ""
    if kept is not None and storage.exists(storage.join(path, MANIFEST)):
        return TrainingSet(path, read_manifest(path), notes=_notes_on_kept(uri, run, path, kept))
    source = _open(uri, run)
    notes = list(source.notes)
    resolution = wanted.resolution or (
        kept.resolution if kept else choose_resolution(uri, source, largest, notes)
    )
    fit, channels = wanted.fit or "crop", wanted.channels or 3
    if kept:
        fit, channels = kept.fit, kept.channels
    plan = make_plan(uri, source, Decoding(resolution, channels, fit=fit), SHARD_MB)
    first = storage.join(run.storage_path, FOLDER, f"{source_name(uri)}-{_key(plan)}")
    path = _newest(first, repack=repack)
    manifest = finished_set(path, plan)
    packing = None if manifest else Packing(source, plan)
    return TrainingSet(path, manifest or _planned(plan), packing, tuple(notes))


def _newest(first: str, *, repack: bool) -> str:
    """Return the newest set of a plan, whose first is at `first`; with `repack` one that is not finished."""
    path, number = first, 2
    while storage.exists(storage.join(f"{first}-{number}", PLAN)) or (
        repack and storage.exists(storage.join(path, MANIFEST))
    ):
        path, number = f"{first}-{number}", number + 1
    return path


def kept_plan(uri: str, run: Beginning, wanted: Wanted) -> Plan | None:
    """Return the plan of the set that a run began with, if it was packed here from the same images."""
    path = run.config.data.path if run.config else ""
    if f"/{FOLDER}/" not in path or not storage.exists(storage.join(path, PLAN)):
        return None
    plan = read_plan(path)
    agrees = all(getattr(wanted, key) in (None, getattr(plan, key)) for key in Wanted._fields)
    return plan if plan.source == storage.redact(uri) and agrees else None


def _notes_on_kept(uri: str, run: Beginning, path: str, kept: Plan) -> tuple[str, ...]:
    """Return what the user of a run must know if its images are gone, or are others now."""
    try:
        source = _open(uri, run)
    except GanDistError as error:
        what = error.problems[0].what
        return (f"the images cannot be read now ({what}); the run goes on with those that it began with",)
    if make_plan(uri, source, kept.decoding, SHARD_MB).items_sha256 == kept.items_sha256:
        return ()
    return (
        f"{storage.redact(uri)} has changed since the run began: {_changes(path, kept, source)}; the run "
        f"goes on with the images that it began with, and name={run.name}-2 begins one with those of now",
    )


def _open(uri: str, run: Beginning) -> Source:
    """Return the images at a path or URI, without the folder of runs if that is among them."""
    skip = None
    if not uri.startswith(TORCHVISION):
        skip = relative_path(run.storage_path, uri)
        if skip == "":
            raise DataError(
                f"storage.path={storage.redact(run.storage_path)} is the folder of the images",
                "keep runs in another one: storage=...",
                keys=("storage.path",),
            )
        if relative_path(run.run_uri, uri) == "" or relative_path(uri, run.run_uri) is not None:
            raise DataError(
                f"{storage.redact(uri)} is in the folder of the run, {storage.redact(run.run_uri)}",
                "give the run another name (name=...) or another storage=...",
                keys=("name", "storage.path"),
            )
    try:
        source = open_source(uri, SourceOptions(skip=skip))
        require_whole(source.damaged, MAX_BAD)
        require_few_bad(source.rejected, len(source.items) + len(source.rejected), MAX_BAD)
    except DataError as error:
        more = "options are those of gan-dist pack SOURCE DEST, and DEST can be trained on"
        raise DataError(
            [replace(one, remedy="; ".join(filter(None, (one.remedy, more)))) for one in error.problems]
        ) from None
    return source


def _key(plan: Plan) -> str:
    return hashlib.sha256(plan.model_dump_json().encode()).hexdigest()[:12]


def _planned(plan: Plan) -> Manifest:
    """Return the sizes of a set before it is packed."""
    size = plan.images * plan.row_bytes
    shard = ShardInfo(file="planned", row_groups=(plan.images,), checksums=(), bytes=size, sha256="")
    return Manifest(
        height=plan.size.height,
        width=plan.size.width,
        channels=plan.channels,
        count=plan.images,
        classes=plan.classes,
        shards=(shard,),
        source=plan.source,
    )


def require_space(path: str, plan: Plan) -> None:
    """Refuse to pack onto a local disk that cannot hold what is missing of the set.

    Raises:
        StorageError: with the bytes that it needs and has.
    """
    if "://" in path:
        return
    folder = Path(path)
    there = sum(file.stat().st_size for file in folder.glob("shard-*.parquet"))
    missing = max(0, plan.images * plan.row_bytes - there) + SPARE_BYTES
    existing = next(one for one in (folder, *folder.parents) if one.exists())
    free = shutil.disk_usage(existing).free
    if missing > free:
        raise StorageError(
            f"the packed set in {path} needs {missing:,} more bytes, and its disk has {free:,} left",
            "free some, and the same command goes on; or give a storage=... on another disk",
            keys=("storage.path",),
        )


def write_listing(path: str, source: Source) -> None:
    """Write beside a set what it is packed from."""
    lines = (json.dumps([name, *rest]) for name, rest in _listed(source).items())
    storage.write_bytes(storage.join(path, LISTING), gzip.compress("\n".join(lines).encode(), mtime=0))


def _listed(source: Source) -> dict[str, tuple[int, str]]:
    """Return size and class of every image by its name."""
    classes = source.classes or ()
    return {item.name: (item.size, classes[item.label] if classes else "") for item in source.items}


def _changes(path: str, kept: Plan, source: Source) -> str:
    """Return in words how images differ from those that a set was packed from."""
    try:
        content = io.BytesIO(storage.read_bytes(storage.join(path, LISTING)))
        with gzip.GzipFile(fileobj=content) as unpacked:
            text = unpacked.read(kept.images * LONGEST_LINE).decode()
        rows = map(parse_json, text.split("\n"))
        before = {str(name): (int(size), str(label)) for name, size, label in rows}
    except (StorageError, OSError, EOFError, ValueError, TypeError, zlib.error):
        return f"it had {counted(kept.images, 'image')} and has {len(source.items):,}"
    now = _listed(source)
    both = before.keys() & now.keys()
    groups = {
        "added": now.keys() - before.keys(),
        "removed": before.keys() - now.keys(),
        "of another size": {name for name in both if before[name][0] != now[name][0]},
        "of another class": {name for name in both if before[name][1] != now[name][1]},
    }
    found = [f"{len(names):,} {what} ({some(sorted(names))})" for what, names in groups.items() if names]
    return ", ".join(found) or "other images cannot be used"
