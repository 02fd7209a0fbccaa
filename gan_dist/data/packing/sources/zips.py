"""ZIP archives of images. Nothing is ever extracted: members are ranges of bytes, inflated in memory."""

from __future__ import annotations

import stat
import struct
import zipfile
import zlib
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import accumulate, chain
from typing import NamedTuple

from gan_dist.core import storage
from gan_dist.core.errors import DataError
from gan_dist.core.storage import redact
from gan_dist.data.packing.decode import PIXEL_LIMIT, RejectedError
from gan_dist.data.packing.sources.files import READ_AHEAD, STORE_READERS, RangeReader, SteadyFile, is_hidden
from gan_dist.data.packing.sources.folders import Tree, label_images, suffix_of, suffixes, to_source
from gan_dist.data.packing.sources.items import (
    IMAGE_SUFFIXES,
    UNLABELLED,
    UNSAFE_NAME,
    FoundFile,
    Item,
    Labelled,
    Reader,
    Rejection,
    Source,
    SourceOptions,
    Stored,
    cut,
    is_unsafe,
)
from gan_dist.data.packing.sources.labels import LISTS
from gan_dist.data.packing.sources.splits import choose_split, split_of

MEMBER_LIMIT = 8 * PIXEL_LIMIT
"""Bytes that a member may hold: the most pixels that are decoded by default, as four samples of 16 bits."""
HEADER_BYTES = 30
HEADER_ROOM = 1024
"""Bytes that are read with a member for its local header, whose length only the header itself says."""
METHODS = {9: "deflate64", 12: "bzip2", 14: "lzma", 93: "zstd", 95: "xz", 96: "jpeg", 98: "ppmd"}
ENCRYPTED, UTF8_NAME = 0x1, 0x800  # flags
AGAIN = "fetch or write it again, or remove it"


class _Archive(NamedTuple):
    """A ZIP as a folder: members by path, with why one is not to be opened; folders; what is left out."""

    members: dict[str, tuple[Item, str | None]]
    folders: list[str]
    rejected: list[Rejection]


def open_zips(uri: str, root: str, files: list[FoundFile], options: SourceOptions) -> Source:
    """Return the images of ZIPs, sorted by name in each, with labels found as in folders.

    Splits are named by the ZIPs, or else by the first folders in them.

    Raises:
        DataError: a ZIP is damaged, no image can be opened, or labels are not clear.
        StorageError: a ZIP cannot be read.
    """
    if options.labels is not None and len(files) > 1:
        raise DataError("--labels is for a folder or one ZIP", f"{redact(uri)} holds {len(files)} ZIPs")
    notes: list[str] = []
    names = {split_of(file.path, by_folder=False) for file in files} - {None}
    if len(names) > 1 or options.split in names:
        files = choose_split(uri, files, options.split, notes, by_folder=False)
        options = replace(options, split="all")
    found: list[tuple[Labelled, str | None]] = []
    rejected: list[Rejection] = []
    for file in files:
        archive, outermost = _below_outermost(_list_zip(root, file))
        tree = _tree(root, file, archive)
        images, more = label_images(tree, options)
        found += [(Labelled(archive.members[image.path][0], label), image.refused) for image, label in images]
        notes += [note if len(files) == 1 else f"{file.path}: {note}" for note in [*outermost, *more]]
        rejected += archive.rejected
    places = [(item.file, item.at or 0) for (item, _), _ in found]
    source = to_source(uri, Members(root, places != sorted(places)), found, notes, options)
    return replace(source, rejected=[*source.rejected, *rejected])


def _list_zip(root: str, file: FoundFile) -> _Archive:
    uri = storage.join(root, file.path)
    if not file.size:
        raise DataError(f"{redact(uri)} is an empty file, no ZIP", AGAIN)
    try:
        with SteadyFile(uri) as stream, zipfile.ZipFile(stream) as archive:
            infos, end = archive.infolist(), archive.start_dir
    except (zipfile.BadZipFile, NotImplementedError, ValueError, struct.error) as error:
        what = f"{redact(uri)}: the directory at the end of the ZIP is cut off or damaged ({cut(error)})"
        raise DataError(what, AGAIN) from None
    members: dict[str, tuple[Item, str | None]] = {}
    folders: set[str] = set()
    rejected: list[Rejection] = []
    for info in infos:
        path = _path(info)
        name = f"{file.path}/{path}"
        if is_unsafe(path):
            rejected.append(Rejection(name, UNSAFE_NAME))
        elif is_hidden(path) or not path:
            continue
        elif info.is_dir():
            folders.add(path)
        else:
            stored = Stored(info.compress_type, info.file_size, info.CRC)
            item = Item(name, file.path, info.header_offset, info.compress_size, UNLABELLED, stored)
            folders.add(path.rpartition("/")[0])
            if path in members:
                rejected.append(Rejection(name, "replaced by a later member of the same name"))
            members[path] = item, _refusal(info, end)
    parents = (accumulate(folder.split("/"), "{}/{}".format) for folder in folders if folder)
    return _Archive(members, sorted(set(chain.from_iterable(parents))), rejected)


def _path(info: zipfile.ZipInfo) -> str:
    """Return a member's path; a name that does not declare an encoding is UTF-8 if it can be."""
    name = info.filename
    if not info.flag_bits & UTF8_NAME:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    path = name.replace("\\", "/")
    return path if is_unsafe(path) else "/".join(part for part in path.split("/") if part not in ("", "."))


def _below_outermost(archive: _Archive) -> tuple[_Archive, list[str]]:
    """Return what is below the one folder that all is in, as many programs write it, and a note of it.

    A folder that holds images only is a class, and one that is named like a split is a split.
    """
    paths = list(archive.members)
    outermost = {path.partition("/")[0] for path in paths}
    inner = [path.partition("/")[2] for path in paths]
    if len(outermost) != 1 or not all(inner) or not any("/" in path or path in LISTS for path in inner):
        return archive, []
    (name,) = outermost
    if split_of(f"{name}/", by_folder=True) is not None:
        return archive, []
    members = dict(zip(inner, archive.members.values(), strict=True))
    folders = [folder.partition("/")[2] for folder in archive.folders if "/" in folder]
    note = f"the folder {name}, in which all images are, is no class"
    return _Archive(members, folders, archive.rejected), [note]


def _refusal(info: zipfile.ZipInfo, end: int) -> str | None:
    if stat.S_ISLNK(info.external_attr >> 16):
        return "a link, not a file"
    if info.flag_bits & ENCRYPTED:
        return "encrypted: write the ZIP without a password"
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        method = METHODS.get(info.compress_type, f"method {info.compress_type}")
        return f"compressed by {method}: only deflate, or nothing, is read"
    if (size := max(info.file_size, info.compress_size)) > MEMBER_LIMIT:
        return f"too large: {size:,} bytes, more than the {MEMBER_LIMIT:,} that an image may have"
    if info.compress_type == zipfile.ZIP_STORED and info.file_size != info.compress_size:
        return "damaged: it is not compressed, but its two sizes differ"
    if info.header_offset < 0 or info.header_offset + HEADER_BYTES + info.compress_size > end:
        return "damaged: it would reach beyond the members' part of the ZIP"
    return None


def _tree(root: str, file: FoundFile, archive: _Archive) -> Tree:
    uri = storage.join(root, file.path)
    read = Members(root, scattered=True).open()

    def content(path: str) -> bytes:
        item, refused = archive.members[path]
        try:
            if refused is not None:
                raise RejectedError(refused)
            return read(item)
        except RejectedError as error:
            raise DataError(f"{redact(storage.join(uri, path))} cannot be read: {error}") from None

    files = sorted(FoundFile(path, item.size, refused) for path, (item, refused) in archive.members.items())
    if not any(suffix_of(one) in IMAGE_SUFFIXES for one in files):
        holds = f"holds {suffixes(files)}" if files else "is empty"
        raise DataError(f"{redact(uri)} holds no images; it {holds}", "containers in a ZIP must be unpacked")
    return Tree(uri, files, archive.folders, content)


@dataclass(frozen=True)
class Members:
    """Members of ZIPs below a folder; `scattered` ones are not asked for in the order in which they lie."""

    root: str
    scattered: bool

    @property
    def readers(self) -> int:
        return STORE_READERS if self.scattered and "://" in self.root else 1

    def open(self) -> Reader:
        """Return what reads and inflates items; neighbours that are not scattered share a read."""
        ranges = RangeReader(self.root, 0 if self.scattered else READ_AHEAD)
        return lambda item: _member(ranges, item)


def _member(ranges: RangeReader, item: Item) -> bytes:
    at = item.at or 0
    content = ranges.read(item.file, at, HEADER_ROOM + item.size)
    if not content.startswith(b"PK\3\4") or len(content) < HEADER_BYTES:
        raise RejectedError("damaged: there is no header where the ZIP's directory says")
    lengths = (int.from_bytes(content[place : place + 2], "little") for place in (26, 28))
    begin = HEADER_BYTES + sum(lengths)  # the directory's own copies of these fields may be shorter
    packed = content[begin : begin + item.size]
    if len(packed) < item.size:
        packed = ranges.read(item.file, at + begin, item.size)
    stored = item.inside
    if not isinstance(stored, Stored) or len(packed) < item.size:
        raise RejectedError(f"damaged: {len(packed):,} of {item.size:,} bytes are there")
    whole = packed if stored.method == zipfile.ZIP_STORED else _inflate(packed, stored.bytes)
    if zlib.crc32(whole) != stored.crc:
        raise RejectedError("damaged: its CRC-32 is not the one that the ZIP gives")
    return whole


def _inflate(packed: bytes, size: int) -> bytes:
    """Return what is deflated, never more than `size` bytes."""
    inflater = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        whole = inflater.decompress(packed, max(1, size))
        more = inflater.decompress(inflater.unconsumed_tail, 1) if not inflater.eof else b""
    except zlib.error as error:
        raise RejectedError(f"damaged: {error}") from None
    if more or len(whole) != size or not inflater.eof:
        raise RejectedError(f"damaged: it does not hold the {size:,} bytes that the ZIP gives")
    return whole
