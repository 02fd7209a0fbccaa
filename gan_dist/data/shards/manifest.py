"""Manifest of a packed set, and the protocol of all image sets."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from typing import Annotated, Protocol

import numpy as np
import numpy.typing as npt
from pydantic import BaseModel, ConfigDict, Field, NonNegativeInt, PositiveInt, ValidationError

from gan_dist.core import storage
from gan_dist.core.errors import AbsentError, DamagedDataError, StorageError
from gan_dist.core.image_size import ImageSize
from gan_dist.data.shards.rows import Rows

SCHEMA_VERSION = 1
MANIFEST = "manifest.json"
LARGEST_IMAGE = 2**31 - 1
"""Bytes of an image, at most: Arrow counts no more."""


class ShardInfo(BaseModel):
    """One file of a set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    file: Annotated[str, Field(pattern=r"^[^/\\\x00]+$")]
    """Its name in the set's folder."""
    row_groups: tuple[PositiveInt, ...]
    """Rows in each row group."""
    checksums: tuple[str, ...]
    """XXH3-128 of each row group's pixels and labels, in hexadecimal."""
    pixels_at: tuple[NonNegativeInt, ...] = ()
    """Where each row group's pixels begin in the file, in bytes; empty where they are not in one piece."""
    labels_at: tuple[NonNegativeInt, ...] = ()
    """The same for labels."""
    bytes: int
    sha256: str


class Manifest(BaseModel):
    """Contents of a packed set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    schema_version: int = SCHEMA_VERSION
    height: PositiveInt
    width: PositiveInt
    channels: PositiveInt
    count: int
    classes: tuple[str, ...] | None = None
    """Names of the classes, indexed by label; None where the set is not labelled."""
    shards: tuple[ShardInfo, ...]
    source: str = ""
    license: str = ""
    attribution: str = ""
    packer_version: str = ""
    settings: dict[str, str] = {}
    """How the images were made: the filter, the decoder's version, counts of what was left out."""

    @property
    def size(self) -> ImageSize:
        """Height and width of the images in pixels."""
        return ImageSize(self.height, self.width)

    @property
    def image_bytes(self) -> int:
        """Bytes of an image's pixels."""
        return self.height * self.width * self.channels

    def empty(self, count: int) -> Rows:
        """Allocate rows of such a set."""
        return Rows.empty(count, self.image_bytes, labelled=self.classes is not None)

    def fingerprint(self) -> str:
        """Return a sha256 that changes whenever the images or their order do."""
        places = {"__all__": {"pixels_at", "labels_at"}}  # which follow from the files
        described = self.model_dump_json(exclude={"packer_version": True, "settings": True, "shards": places})
        return hashlib.sha256(described.encode()).hexdigest()


class _Version(BaseModel):
    schema_version: int = SCHEMA_VERSION


class ImageSet(Protocol):
    """Images in numbered groups of rows; a group is what is read at once. Must be picklable.

    Reading raises a `DamagedDataError` where a file is missing, damaged, or not what the manifest says, and a
    `StorageError` where the store cannot be reached.
    """

    manifest: Manifest

    @property
    def group_rows(self) -> tuple[int, ...]:
        """Rows in each group, in order."""

    def read_group(self, group: int) -> Rows:
        """Return all rows of one group."""

    def read_parts(self, group: int) -> Iterator[tuple[int, Rows]]:
        """Yield one group's rows as they are read: the number of a part's first row, and the part.

        A part is valid until the next is asked for. Where a first reading failed, rows come again; none is to
        be used before the end has been reached without an error.
        """


def unknown_label(labels: npt.NDArray[np.int64] | None, manifest: Manifest) -> str | None:
    """Return a sentence about a label that the manifest has no class for, or None where there is none."""
    if labels is None or manifest.classes is None:
        return None
    count = len(manifest.classes)
    outside = labels[(labels < 0) | (labels >= count)]
    return f"label {outside[0]} is none of the manifest's {count} classes" if len(outside) else None


def to_json(model: BaseModel) -> bytes:
    """Return a model as an indented JSON file."""
    return (json.dumps(model.model_dump(mode="json"), indent=1) + "\n").encode()


def read_manifest(uri: str, key: str = "data.path") -> Manifest:
    """Return the manifest of the set at a path or URI; `key` is the configuration key that names it, if any.

    Raises:
        DamagedDataError: there is no manifest, or it cannot be understood.
    """
    try:
        text = storage.read_text(storage.join(uri, MANIFEST))
    except StorageError as error:
        remedy = "`gan-dist pack SOURCE DEST --resolution 64` makes one of images, in DEST"
        raise DamagedDataError(
            f"{f'{key}=' if key else ''}{storage.redact(uri)} holds no image set: {error}",
            remedy if isinstance(error, AbsentError) else "",
            keys=(key,) if key else (),
        ) from None
    try:
        # Another format may have other fields, so the version comes first.
        version = _Version.model_validate_json(text).schema_version
        if version != SCHEMA_VERSION:
            raise DamagedDataError(
                f"{uri} was packed with format {version}, this version reads {SCHEMA_VERSION}",
                "pack the set again",
            )
        manifest = Manifest.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = "".join(f"{part}: " for part in first["loc"])
        raise DamagedDataError(
            f"{uri}/{MANIFEST} is not a manifest of shards: {field}{first['msg']}"
        ) from None
    if manifest.image_bytes > LARGEST_IMAGE:
        shape = f"{manifest.size}x{manifest.channels}"
        raise DamagedDataError(
            f"{uri}/{MANIFEST} says images of {shape}, more than {LARGEST_IMAGE} bytes each"
        )
    for file, times in Counter(shard.file for shard in manifest.shards).items():
        if times > 1:
            raise DamagedDataError(
                f"{uri}/{MANIFEST} lists shard {file} {times} times", "its images would be, too"
            )
    for shard in manifest.shards:
        if len(shard.checksums) != len(shard.row_groups):
            raise DamagedDataError(
                f"{uri}/{MANIFEST} lists {len(shard.row_groups)} row groups but {len(shard.checksums)} "
                f"checksums for shard {shard.file}"
            )
    listed = sum(sum(shard.row_groups) for shard in manifest.shards)
    if listed != manifest.count or manifest.count == 0:
        raise DamagedDataError(f"{uri}/{MANIFEST} says {manifest.count} images, but its shards list {listed}")
    return manifest
