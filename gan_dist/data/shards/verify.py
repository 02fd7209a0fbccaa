"""Reads a packed set again and names what is damaged."""

from __future__ import annotations

import hashlib
from concurrent.futures import ThreadPoolExecutor

import pyarrow as pa
import pyarrow.parquet as pq

from gan_dist.core import storage
from gan_dist.core.errors import AbsentError, DataError
from gan_dist.data.shards.manifest import Manifest, ShardInfo, read_manifest, unknown_label
from gan_dist.data.shards.rows import checksum, row_columns, table_rows

READERS = 4


def verify_set(uri: str) -> Manifest:
    """Check every shard's hash, pages and rows against the manifest, and return that.

    Raises:
        DataError: naming every shard that is missing or damaged, and how.
        StorageError: storage cannot be read.
    """
    manifest = read_manifest(uri, asked_by="")
    with ThreadPoolExecutor(READERS) as pool:
        found = list(pool.map(lambda shard: _damage(uri, manifest, shard), manifest.shards))
    damaged = [f"  {shard.file}: {what}" for shard, what in zip(manifest.shards, found, strict=True) if what]
    if damaged:
        listed = "\n".join(damaged)
        raise DataError(
            f"{len(damaged)} of {len(manifest.shards)} shards of {storage.redact(uri)} are missing or "
            f"damaged",
            f"restore them or pack the set again:\n{listed}",
        )
    return manifest


def sha256_of(uri: str, size: int) -> str:
    """Return a file's sha256 without holding the file.

    Args:
        uri: The file.
        size: Its bytes, about; they extend the time that a store is given.

    Raises:
        StorageError: it does not exist or cannot be read.
    """
    filesystem, path = storage.open_uri(uri)

    def read() -> str:
        with filesystem.open_input_stream(path) as stream:
            return hashlib.file_digest(stream, "sha256").hexdigest()

    return storage.retrying(uri, read, size)


def _damage(uri: str, manifest: Manifest, shard: ShardInfo) -> str | None:
    """Return what is wrong with a shard, or None."""
    try:
        content = storage.read_bytes(storage.join(uri, shard.file))
    except AbsentError:
        return "missing"
    # The pages tell where, which the whole file's hash does not.
    damage = _page_damage(content, manifest, shard)
    if damage is None and hashlib.sha256(content).hexdigest() != shard.sha256:
        return "other bytes than the manifest's sha256 says"
    return damage


def _page_damage(content: bytes, manifest: Manifest, shard: ShardInfo) -> str | None:
    if len(content) != shard.bytes:
        return f"{len(content)} bytes, not {shard.bytes}"
    try:
        reader = pq.ParquetFile(pa.BufferReader(content), page_checksum_verification=True)
        groups = [reader.metadata.row_group(n).num_rows for n in range(reader.metadata.num_row_groups)]
        if tuple(groups) != shard.row_groups:
            return f"row groups of {groups} rows, not {list(shard.row_groups)}"
        wanted = row_columns(manifest.image_bytes, labelled=manifest.classes is not None)
        found = {field.name: field.type for field in reader.schema_arrow}
        if found != wanted:
            return f"its columns are {_listed(found)}, not {_listed(wanted)}"
        for group in range(len(groups)):
            try:
                rows = table_rows(reader.read_row_group(group, use_threads=False))
            except (OSError, ValueError, pa.ArrowException) as error:
                return f"row group {group}: {error}"
            if checksum(rows) != shard.checksums[group]:
                return f"row group {group}: other images than the manifest's checksum says"
            if unknown := unknown_label(rows.labels, manifest):
                return f"row group {group}: {unknown}"
    except (OSError, KeyError, ValueError, pa.ArrowException) as error:
        return f"no readable Parquet file ({error})"
    return None


def _listed(columns: dict[str, pa.DataType]) -> str:
    return " and ".join(f"{name}: {kind}" for name, kind in columns.items())
