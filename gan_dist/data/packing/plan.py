"""Plan of a packing: all that decides the bytes of a packed set, and the images of each shard. No Ray."""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple, TypeVar

import PIL
from pydantic import (
    BaseModel,
    ConfigDict,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
)

from gan_dist.core import host, storage
from gan_dist.core.errors import DataError, closest
from gan_dist.core.image_size import FIT_PATTERN, FITS, ImageSize, WrittenSize
from gan_dist.core.storage import redact
from gan_dist.data.packing.decode import PIXEL_LIMIT, Decoding
from gan_dist.data.packing.resize import FILTERS, resizer
from gan_dist.data.packing.sources.items import Rejection, Source, counted, cut
from gan_dist.data.packing.sources.torchvision_sets import TORCHVISION
from gan_dist.data.shards.manifest import MANIFEST, Manifest

PLAN = "pack.json"
GROUP_BYTES = 8 * 2**20
SHOWN = 5
MAX_RESOLUTION = 2**14
"""An RGB image of it is three quarters of `shard_set.LARGEST_PAGE`, and larger than what is decoded without
`--max-megapixels`."""
MAX_PIXELS = 10**9
"""The most that `--max-megapixels` allows: up to 20 GB of memory for each picture that is being decoded."""

M = TypeVar("M", bound=BaseModel)


class Plan(BaseModel):
    """All that decides the bytes of a packed set."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    packer: str
    pillow: str
    resizer: str
    source: str
    images: int
    items_sha256: str
    """Of every item's name, size and label, and of what the listing rejected."""
    classes: tuple[str, ...] | None
    resolution: int | WrittenSize
    channels: int
    filter: str
    shard_items: int
    group_rows: int
    max_pixels: int = PIXEL_LIMIT
    fit: str = "crop"
    """As in `Decoding`; written only where it is another, so that plans of earlier versions stay the same."""

    @model_serializer(mode="wrap")
    def _write(self, write: SerializerFunctionWrapHandler) -> dict[str, object]:
        written: dict[str, object] = write(self)
        if self.fit == "crop":
            del written["fit"]
        return written

    @property
    def size(self) -> ImageSize:
        """Height and width of the packed images."""
        return ImageSize.of(self.resolution)

    @property
    def decoding(self) -> Decoding:
        """What images are turned into."""
        return Decoding(self.resolution, self.channels, self.filter, self.max_pixels, self.fit)

    @property
    def row_bytes(self) -> int:
        """Bytes of one image's pixels."""
        return self.size.area * self.channels

    def jobs(self) -> list[Job]:
        """Return the work of every shard."""
        starts = range(0, self.images, self.shard_items)
        return [Job(n, start, min(start + self.shard_items, self.images)) for n, start in enumerate(starts)]


class Job(NamedTuple):
    """One shard: its number, and its items [start, stop)."""

    number: int
    start: int
    stop: int

    @property
    def file(self) -> str:
        """The shard's name."""
        return f"shard-{self.number:05d}.parquet"

    @property
    def record(self) -> str:
        """The name of the finished shard's record."""
        return f"shard-{self.number:05d}.json"


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
    earlier = read_plan(dest)
    if differences := _differences(earlier, plan):
        raise DataError(
            f"{redact(dest)} was begun with another plan: {'; '.join(differences)}",
            "give the same options again, delete the folder, or choose another DEST",
        )
    if MANIFEST not in present:
        return None
    return _read(dest, MANIFEST, Manifest, "delete it, and the same command makes the set anew")


def read_plan(dest: str) -> Plan:
    """Return the plan of the set that is, or will be, at `dest`; raise a DataError if it is none."""
    return _read(dest, PLAN, Plan, "delete the folder or choose another DEST")


def _read(dest: str, name: str, model: type[M], remedy: str) -> M:
    try:
        return model.model_validate_json(storage.read_bytes(storage.join(dest, name)))
    except ValidationError as error:
        what = f"{redact(dest)}/{name} is not a {model.__name__.lower()} of this version"
        raise DataError(f"{what} ({error.errors()[0]['msg']})", remedy) from None


def _differences(earlier: Plan, plan: Plan) -> list[str]:
    old, new = dict(earlier), dict(plan)
    changed = [key for key in new if old[key] != new[key]]
    follows = {"items_sha256", "classes", *(["resizer"] if "filter" in changed else [])}
    texts = [f"{key} was {cut(old[key])} and is {cut(new[key])}" for key in changed if key not in follows]
    if "items_sha256" not in changed:
        return [*texts, "the classes have other names"] if "classes" in changed else texts
    return texts if "images" in changed else [*texts, "the images' names, sizes or labels have changed"]


def require_settings(decoding: Decoding, shard_mb: float, max_bad: str) -> None:
    """Refuse, before a source is listed, settings that no source can have.

    Raises:
        DataError: a setting is out of its range.
    """
    if not all(1 <= edge <= MAX_RESOLUTION for edge in ImageSize.of(decoding.resolution)):
        raise DataError(f"--resolution must be from 1 to {MAX_RESOLUTION}, not {decoding.resolution}")
    if decoding.channels not in (1, 3, 4):
        raise DataError(
            f"--channels must be 3 (colour), 1 (grey) or 4 (colour and alpha), not {decoding.channels}"
        )
    if decoding.fit not in FITS and not re.fullmatch(FIT_PATTERN, decoding.fit):
        near = closest(decoding.fit, FITS)
        raise DataError(
            "--fit must be crop, pad, pad:COLOUR (black, white, or digits such as ff8000) or stretch, not "
            f"{decoding.fit}",
            f"the nearest is {near}" if near else "",
        )
    if ImageSize.of(decoding.resolution).area * decoding.channels > 3 * MAX_RESOLUTION**2:
        raise DataError(
            f"--resolution {decoding.resolution} with {decoding.channels} channels makes images that are too "
            f"large: {3 * MAX_RESOLUTION**2:,} bytes are possible"
        )
    if decoding.filter not in FILTERS:
        raise DataError(f"--filter must be one of {', '.join(FILTERS)}, not {decoding.filter}")
    if not 0 < decoding.max_pixels <= MAX_PIXELS:
        raise DataError(f"--max-megapixels must be above 0 and at most {MAX_PIXELS // 10**6}")
    if not (shard_mb > 0 and math.isfinite(shard_mb * 2**20)):
        raise DataError(f"--shard-mb must be above 0, not {shard_mb:g}")
    parse_max_bad(max_bad, 0)


def make_plan(uri: str, source: Source, decoding: Decoding, shard_mb: float) -> Plan:
    """Return the plan for a source; `require_settings` has seen the settings."""
    row_bytes = ImageSize.of(decoding.resolution).area * decoding.channels
    shard_rows = max(1, int(shard_mb * 2**20) // row_bytes)
    group_rows = max(1, min(shard_rows, GROUP_BYTES // row_bytes))
    return Plan(
        packer=host.own_version(),
        pillow=PIL.__version__,
        resizer=resizer(decoding.filter, decoding.channels),
        source=redact(uri),
        images=len(source.items),
        items_sha256=_hash_items(source),
        classes=source.classes,
        resolution=decoding.resolution,
        channels=decoding.channels,
        filter=decoding.filter,
        shard_items=shard_rows // group_rows * group_rows,
        group_rows=group_rows,
        max_pixels=decoding.max_pixels,
        fit=decoding.fit,
    )


def _hash_items(source: Source) -> str:
    digest = hashlib.sha256()
    for item in source.items:
        inside = "" if item.inside is None else f"\0{item.inside!r}"
        digest.update(f"{item.name}\0{item.at}\0{item.size}\0{item.label}{inside}\n".encode())
    for rejection in source.rejected:
        digest.update(f"{rejection.path}\0{rejection.reason}\n".encode())
    return digest.hexdigest()


def parse_max_bad(text: str, total: int) -> int:
    """Return how many of `total` images may be bad: `text` is a percentage or a number.

    Raises:
        DataError: it is neither.
    """
    with suppress(ValueError):
        if text.endswith("%") and 0 <= (percent := float(text[:-1])) <= 100:
            return int(total * percent / 100)
        if text.isdecimal():
            return int(text)
    raise DataError(f"--max-bad must be a number of images or a percentage such as 1%, not {text!r}")


def require_few_bad(bad: Sequence[Rejection], total: int, max_bad: str) -> None:
    """Refuse to go on with a source that has too many bad images.

    Raises:
        DataError: with the count and the first few reasons.
    """
    if len(bad) > (limit := parse_max_bad(max_bad, total)):
        raise DataError(
            f"{len(bad)} of {total} images cannot be used so far, and --max-bad {max_bad} allows {limit}",
            "mend or remove them, or raise --max-bad to go on without them" + _lines(list(map(str, bad))),
        )


def require_whole(damaged: Sequence[str], max_bad: str) -> None:
    """Refuse files that have lost an unknown number of images, a sentence each, unless all may be lost.

    Raises:
        DataError: there is one, and `max_bad` is less than 100%.
    """
    if damaged and not (max_bad.endswith("%") and parse_max_bad(max_bad, 1) == 1):
        raise DataError(
            f"how many images are lost with {counted(len(damaged), 'damaged file')} is not known, so that "
            f"--max-bad {max_bad} cannot be kept",
            "fetch or write them again, or use what is left of them with --max-bad 100%" + _lines(damaged),
        )


def _lines(sentences: Sequence[str]) -> str:
    """Return the first few of some sentences, a line each, to stand below a message."""
    more = [f"and {len(sentences) - SHOWN} more"] if len(sentences) > SHOWN else []
    return "".join(f"\n  {cut(sentence)}" for sentence in [*sentences[:SHOWN], *more])


def relative_path(uri: str, folder: str) -> str | None:
    """Return where `uri` is inside `folder`, links followed: empty for the folder itself, None outside it."""
    (inner_fs, inner), (outer_fs, outer) = storage.open_uri(uri), storage.open_uri(folder)
    if inner_fs.type_name == outer_fs.type_name == "local":
        inner, outer = os.path.realpath(inner), os.path.realpath(outer)
    outer = outer.rstrip("/")
    is_inside = inner_fs.type_name == outer_fs.type_name and f"{inner}/".startswith(f"{outer}/")
    return inner[len(outer) + 1 :] if is_inside else None


def require_apart(source: str, dest: str) -> None:
    """Refuse a destination inside the source, where the set would become part of what it is packed from.

    Raises:
        DataError: it is inside.
    """
    if not source.startswith(TORCHVISION) and relative_path(dest, source) is not None:
        raise DataError(
            f"DEST {redact(dest)} is inside SOURCE {redact(source)}", "choose a folder outside it"
        )
