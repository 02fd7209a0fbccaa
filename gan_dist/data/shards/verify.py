"""Damaged row groups and shards: `pack --verify`, and sets without their damaged row groups."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq
import xxhash

from gan_dist.core import storage
from gan_dist.core.errors import AbsentError, DamagedDataError
from gan_dist.core.storage.durable import require_file
from gan_dist.data.shards.manifest import ImageSet, Manifest, ShardInfo, read_manifest, unknown_label
from gan_dist.data.shards.parquet_layout import read_footer
from gan_dist.data.shards.row_group import MemoryFile, UnreadableError, listed_extent
from gan_dist.data.shards.rows import Rows, checksum, table_rows

READERS = 4


class Without:
    """A set without some of its groups; the others keep their order and are numbered anew."""

    def __init__(self, images: ImageSet, left_out: Sequence[int]) -> None:
        self._images = images
        self.kept = [group for group in range(len(images.group_rows)) if group not in left_out]
        """The groups that are left, by their numbers in the whole set."""
        self.group_rows = tuple(images.group_rows[group] for group in self.kept)
        self.manifest: Manifest = images.manifest

    def read_group(self, group: int) -> Rows:
        return self._images.read_group(self.kept[group])

    def read_parts(self, group: int) -> Iterator[tuple[int, Rows]]:
        return self._images.read_parts(self.kept[group])


def find_damage(images: ImageSet, groups: Sequence[int]) -> dict[int, str]:
    """Read some groups and return what is wrong with each that cannot be read whole."""
    damage = {}
    for group in groups:
        try:
            images.read_group(group)
        except DamagedDataError as error:
            damage[group] = str(error)
    return damage


def verify_set(uri: str) -> Manifest:
    """Check every shard's hash, pages and rows against the manifest, and return that.

    Raises:
        DamagedDataError: naming every shard that is missing or damaged, and how.
        StorageError: storage cannot be read.
    """
    manifest = read_manifest(uri, key="")
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(lambda shard: _shard_damage(uri, manifest, shard), manifest.shards))
    damaged = [f"  {shard.file}: {what}" for shard, what in zip(manifest.shards, found, strict=True) if what]
    if damaged:
        of = f"{len(manifest.shards)} shards of {storage.redact(uri)}"
        raise DamagedDataError(
            f"{len(damaged)} of {of} are missing or damaged",
            "\n".join(["restore them or pack the set again:", *damaged]),
        )
    return manifest


def sha256_of(uri: str, size: int) -> str:
    """Return a file's sha256 without holding the file; a store is given time for `size` bytes.

    Raises:
        StorageError: it does not exist or cannot be read.
    """
    filesystem, path = storage.open_uri(uri)

    def read() -> str:
        if filesystem.type_name == "local":
            require_file(path)
        with filesystem.open_input_stream(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    return storage.retrying(uri, read, size)


def _shard_damage(uri: str, manifest: Manifest, shard: ShardInfo) -> str | None:
    try:
        content = storage.read_bytes(storage.join(uri, shard.file))
    except AbsentError:
        return "missing"
    if len(content) != shard.bytes:
        return f"{len(content)} bytes, not {shard.bytes}"
    if hashlib.sha256(content).hexdigest() == shard.sha256:
        return _disagreement(content, manifest, shard)
    # Parquet's reader never gets damaged bytes: over some it ends the process.
    return _damaged_group(content, manifest, shard) or "other bytes than the manifest's sha256 says"


def _damaged_group(content: bytes, manifest: Manifest, shard: ShardInfo) -> str | None:
    """Return the first row group whose place in the file holds other values than were packed, if any."""
    file = MemoryFile(content)
    for number, expected in enumerate(shard.checksums):
        state = xxhash.xxh3_128()
        try:
            extent = listed_extent(manifest, shard, number) or read_footer(file).extent(file, number)
            for _ in extent.read(file, state):
                pass
        except (UnreadableError, LookupError) as error:
            return f"row group {number}: {error}"
        if state.hexdigest() != expected:
            return f"row group {number}: other images than the manifest's checksum says"
    return None


def _disagreement(content: bytes, manifest: Manifest, shard: ShardInfo) -> str | None:
    """Return what an undamaged file, as Parquet's reader sees it, holds otherwise than the manifest says."""
    try:
        reader = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        groups = [reader.metadata.row_group(n).num_rows for n in range(reader.metadata.num_row_groups)]
        if tuple(groups) != shard.row_groups:
            return f"row groups of {groups} rows, not {list(shard.row_groups)}"
        wanted = {"pixels": pa.binary(manifest.image_bytes)}
        if manifest.classes is not None:
            wanted["label"] = pa.int64()
        found = {field.name: field.type for field in reader.schema_arrow}
        if found != wanted:
            return f"its columns are {_listed(found)}, not {_listed(wanted)}"
        for group in range(len(groups)):
            rows = table_rows(reader.read_row_group(group, use_threads=False))
            if checksum(rows) != shard.checksums[group]:
                return f"row group {group}: other images than the manifest's checksum says"
            if unknown := unknown_label(rows.labels, manifest):
                return f"row group {group}: {unknown}"
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        return f"no readable Parquet file ({error})"
    return None


def _listed(columns: dict[str, pa.DataType]) -> str:
    return " and ".join(f"{name}: {kind}" for name, kind in columns.items())
