"""Tars of samples, as WebDataset writes them. Nothing is ever extracted: members are ranges of bytes."""

from __future__ import annotations

import tarfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from gan_dist.core import storage
from gan_dist.core.errors import DataError
from gan_dist.core.json_text import parse_json
from gan_dist.core.storage import redact
from gan_dist.data.packing.sources.files import Ranges, SteadyFile
from gan_dist.data.packing.sources.items import (
    IMAGE_SUFFIXES,
    UNLABELLED,
    UNSAFE_NAME,
    FoundFile,
    Item,
    Labelled,
    Rejection,
    Source,
    SourceOptions,
    counted,
    is_unsafe,
    number_items,
    some,
    writable,
)

LABEL_LIMIT = 2**20
STREAM_BYTES = 2**20
COMPRESSED = {b"\x1f\x8b": "gzip", b"BZh": "bzip2", b"\xfd7zXZ": "xz", b"\x28\xb5\x2f\xfd": "zstd"}
LABEL_KEY = "label"
SHARED_KEY = "several images under one key, the name up to its first dot: rename them"


@dataclass
class _Sample:
    """The members of a tar that share a key."""

    images: list[tarfile.TarInfo] = field(default_factory=list)
    label: str | None = None
    has_cls: bool = False


def open_tars(root: str, files: Sequence[FoundFile], options: SourceOptions) -> Source:
    """Return the samples of tars, in the order in which they are stored.

    Members are grouped by their path up to the first dot of the name; the image's suffix says which member is
    the image, `.cls` or the key `label` of `.json` what its class is.

    Raises:
        DataError: a file is compressed, no image is found, or only some images are labelled.
        StorageError: a file cannot be read.
    """
    found: list[Labelled] = []
    rejected: list[Rejection] = []
    damaged: list[str] = []
    for file in files:
        with SteadyFile(storage.join(root, file.path)) as stream:
            samples, bad, damage = _list_tar(stream, file)
        found += samples
        rejected += bad
        if damage is not None:
            rejected.append(Rejection(file.path, damage))
            damaged.append(f"{file.path} is {damage}; used of it: {counted(len(samples), 'image')}")
    if not found:
        reasons = some(list(map(str, rejected))) or "no member is named like one"
        raise DataError(f"{redact(root)}: the tars hold no images ({reasons})")
    items, classes, notes = number_items(found, no_labels=options.no_labels)
    return Source(Ranges(root), items, classes, rejected, notes, tuple(damaged))


def _list_tar(stream: Any, file: FoundFile) -> tuple[list[Labelled], list[Rejection], str | None]:
    """Return a tar's images, the members that are refused, and how the tar itself is damaged, if it is."""
    head = stream.read(8)
    stream.seek(0)
    for magic, name in COMPRESSED.items():
        if head.startswith(magic):
            raise DataError(
                f"{file.path} is compressed ({name}), so that no member can be read by itself", "unpack it"
            )
    found: list[Labelled] = []
    rejected: list[Rejection] = []
    start: int | None = 0
    while start is not None:  # tars may be written one after another, as `cat` does
        samples: dict[str, _Sample] = {}
        end, damage = _list_archive(stream, file, start, samples, rejected)
        for key, sample in samples.items():
            names = [f"{file.path}/{_printable(member.name)}" for member in sample.images]
            if len(names) == 1:
                member = sample.images[0]
                item = Item(names[0], file.path, start + member.offset_data, member.size, UNLABELLED)
                found.append(Labelled(item, sample.label))
            elif names:
                rejected += [Rejection(name, SHARED_KEY) for name in names]
            else:
                rejected.append(Rejection(f"{file.path}/{_printable(key)}", "no image under this key"))
        if damage is not None:
            return found, rejected, damage
        start = _next_archive(stream, end)
    return found, rejected, None


def _list_archive(
    stream: Any, file: FoundFile, start: int, samples: dict[str, _Sample], rejected: list[Rejection]
) -> tuple[int, str | None]:
    """Add the members of the archive at a byte; return where it ends, and how it is damaged, if it is."""
    stream.seek(end := start)
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=STREAM_BYTES) as tar:
            while (member := tar.next()) is not None:
                # Tarfile collects every member that it has read.
                tar.members = []  # type: ignore[attr-defined]
                end = start + tar.offset
                if end > file.size:
                    break
                if (refused := _refusal(member)) is not None:
                    rejected.append(Rejection(f"{file.path}/{_printable(member.name)}", refused))
                elif member.isreg():
                    _add(samples, tar, member)
        # A broken header in the middle looks like the end to tarfile; only the end mark tells them apart.
        stream.seek(end := min(end, file.size))
        if stream.read(tarfile.BLOCKSIZE) != tarfile.NUL * tarfile.BLOCKSIZE:
            raise tarfile.TarError("the end mark is missing")
    except tarfile.TarError as error:
        return end, f"damaged or truncated at byte {end} ({error})"
    return end, None


def _next_archive(stream: Any, end: int) -> int | None:
    """Return the byte of the first block after an end mark that is not zeros, or None if all are."""
    stream.seek(at := end)
    while content := stream.read(STREAM_BYTES):
        zeros = len(content) - len(content.lstrip(tarfile.NUL))
        if zeros < len(content):
            return at + zeros // tarfile.BLOCKSIZE * tarfile.BLOCKSIZE
        at += zeros
    return None


def _refusal(member: tarfile.TarInfo) -> str | None:
    if is_unsafe(member.name):
        return UNSAFE_NAME
    if member.issym() or member.islnk():
        return "a link, not a file"
    if member.issparse():
        return "a sparse file"
    return None if member.isreg() or member.isdir() else "a device or another special file"


def _add(samples: dict[str, _Sample], tar: tarfile.TarFile, member: tarfile.TarInfo) -> None:
    folder, _, base = member.name.rpartition("/")
    stem, dot, extension = base.partition(".")
    suffix = PurePosixPath(base).suffix.lower()
    if not stem or not dot:
        return
    is_image = suffix in IMAGE_SUFFIXES
    is_label = extension in ("cls", "json") and member.size <= LABEL_LIMIT
    if not is_image and not is_label:
        return
    sample = samples.setdefault(f"{folder}/{stem}" if folder else stem, _Sample())
    if is_image:
        sample.images.append(member)
        return
    content = tar.extractfile(member)
    text = b"" if content is None else content.read()
    if extension == "cls":
        sample.label, sample.has_cls = text.decode(errors="replace").strip() or None, True
    elif not sample.has_cls:
        sample.label = _json_label(text)


def _json_label(text: bytes) -> str | None:
    try:
        value = parse_json(text)
    except ValueError:
        return None
    label = value.get(LABEL_KEY) if isinstance(value, dict) else None
    return writable(str(label)) if isinstance(label, (int, str)) and label != "" else None


def _printable(name: str) -> str:
    """Return a name whose bytes may not be UTF-8 as text that can be written."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
