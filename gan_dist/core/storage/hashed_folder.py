"""Folders with a manifest of their files' hashes and sizes, as checkpoints and releases are.

The manifest is written last: a folder without one is incomplete, and one whose files differ is damaged.
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Annotated, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gan_dist.core import storage
from gan_dist.core.errors import AbsentError, CheckpointError
from gan_dist.core.storage.durable import exchange_folders
from gan_dist.core.storage.redaction import reason

T = TypeVar("T")

FORMAT = 1
MANIFEST = "manifest.json"
FileName = Annotated[str, Field(pattern=r"^[A-Za-z0-9_][A-Za-z0-9_.-]*$")]
"""Name of a file in the folder itself: no path leads out of it."""
File = tuple[str, bytes]
"""Name and content."""
Hashes = Mapping[str, str]
"""SHA-256 of files by their names."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
_CHECKPOINT = re.compile(r"checkpoint_(\d{12})(?:-(\d+))?")


class FolderManifest(BaseModel):
    """The `manifest.json` of a folder."""

    model_config = ConfigDict(frozen=True, strict=True)

    format: int
    kind: str
    files: dict[FileName, Sha256]
    """SHA-256 of each file, in hexadecimal digits."""
    sizes: dict[str, int] = {}
    """Bytes of each file; version 0.1 recorded none."""


def to_json(value: object) -> bytes:
    """Return a value as readable JSON with sorted keys."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def write_folder(
    uri: str, kind: str, contents: Iterable[File], last: Callable[[Hashes], File] | None = None
) -> None:
    """Write files, names and contents, to a folder, and their manifest behind them.

    `kind` is such as `release`. `last` returns one more file, from the hashes of the others by their names.
    """
    hashes: dict[str, str] = {}
    sizes: dict[str, int] = {}

    def write(name: str, content: bytes) -> None:
        storage.write_bytes(storage.join(uri, name), content)
        hashes[name], sizes[name] = hashlib.sha256(content).hexdigest(), len(content)

    for name, content in contents:
        write(name, content)
    if last is not None:
        write(*last(hashes))
    storage.write_bytes(storage.join(uri, MANIFEST), _to_manifest(kind, hashes, sizes))


def format_manifest(kind: str, contents: Mapping[str, bytes]) -> bytes:
    """Return the manifest that `write_folder` writes behind files."""
    hashes = {name: hashlib.sha256(content).hexdigest() for name, content in contents.items()}
    return _to_manifest(kind, hashes, {name: len(content) for name, content in contents.items()})


def _to_manifest(kind: str, hashes: Hashes, sizes: Mapping[str, int]) -> bytes:
    return to_json({"format": FORMAT, "kind": kind, "files": hashes, "sizes": sizes})


def replace_folder(uri: str, kind: str, contents: Mapping[str, bytes]) -> bool:
    """Write a folder in place of one of the same kind; return False if it has these files already.

    Other files in it stay. A kill at any moment leaves all the earlier files or all the new ones, on local
    disks that can exchange two folders at once. Elsewhere it may leave a folder of the kind `part of a KIND`;
    the next call completes that.
    """
    filesystem, path = storage.open_uri(uri)
    target = Path(path)
    beside = target.with_name(f".{target.name}.partial")
    if filesystem.type_name == "local":
        storage.delete_tree(str(beside))  # of a call that was killed
    with suppress(CheckpointError):
        if read_folder(uri, [kind])[1] == contents:
            return False
    if filesystem.type_name == "local" and _can_be_exchanged(target, contents):
        for entry in target.iterdir():
            if entry.name not in contents and entry.name != MANIFEST:
                storage.write_bytes(str(beside / entry.name), storage.read_bytes(str(entry)))
        write_folder(str(beside), kind, contents.items())
        shutil.copymode(target, beside)
        exchanged = exchange_folders(beside, target)
        storage.delete_tree(str(beside))
        if exchanged:
            return True
    write_folder(uri, part_of(kind), [])
    write_folder(uri, kind, contents.items())
    return True


def part_of(kind: str) -> str:
    """Return the kind of a folder, in its manifest, while files are written in place of earlier ones."""
    return f"part of a {kind}"


def _can_be_exchanged(folder: Path, contents: Container[str]) -> bool:
    """Return whether a folder is no link, and what else is in it can be copied."""
    if not folder.is_dir() or folder.is_symlink():
        return False
    others = [entry for entry in folder.iterdir() if entry.name not in contents]
    return all(entry.is_file() and not entry.is_symlink() for entry in others)


def delete_folder(uri: str) -> None:
    """Delete a folder, its manifest first: a kill in between leaves it incomplete, not damaged."""
    storage.delete_file(storage.join(uri, MANIFEST))
    storage.delete_tree(uri)


def checkpoint_names(run_uri: str) -> list[str]:
    """Return the names of a run's checkpoints, the newest first; those without a manifest are left out."""
    names = sorted_checkpoints(storage.list_names(run_uri))
    return [name for name in names if storage.exists(storage.join(run_uri, name, MANIFEST))]


def sorted_checkpoints(names: Sequence[str]) -> list[str]:
    """Return the checkpoints among the names in a folder, in the order of `checkpoint_names`."""
    found = [match for name in names if (match := _CHECKPOINT.fullmatch(name))]
    found.sort(key=lambda match: (int(match[1]), int(match[2] or 0)), reverse=True)
    return [match[0] for match in found]


def read_folder(uri: str, kinds: Sequence[str]) -> tuple[str, dict[str, bytes]]:
    """Return a folder's kind and its files' contents, after checking their sizes and hashes.

    Raises:
        CheckpointError: the folder is absent, of another kind, incomplete or damaged.
        StorageError: its store does not answer or refuses access.
    """
    manifest = read_manifest(uri, kinds)
    if what := _wrong_size(uri, manifest):
        raise CheckpointError(what)
    return manifest.kind, {name: _read_file(uri, manifest, name) for name in manifest.files}


def _read_file(uri: str, manifest: FolderManifest, name: str) -> bytes:
    """Return the content of a file after checking its hash."""
    try:
        content = storage.read_bytes(storage.join(uri, name))
    except AbsentError:
        raise CheckpointError(f"{uri} is not complete: {name} is missing") from None
    if hashlib.sha256(content).hexdigest() != manifest.files[name]:
        raise CheckpointError(f"{uri}/{name} is damaged: its sha256 is not the one in {MANIFEST}")
    return content


def copy_folder(uri: str, kind: str, to: str) -> None:
    """Copy a folder of a kind, after checking its files' sizes and hashes; the manifest is copied last.

    One file at a time is in memory. A copy that is whole already is left as it is.

    Raises:
        CheckpointError: the folder is absent, of another kind, incomplete or damaged; no copy is left.
        StorageError: a file cannot be read or written.
    """
    manifest = read_manifest(uri, [kind])
    if what := _wrong_size(uri, manifest):
        raise CheckpointError(what)
    with suppress(CheckpointError):
        if read_manifest(to, [kind]) == manifest and not _wrong_size(to, manifest):
            return
    storage.delete_file(storage.join(to, MANIFEST))
    try:
        for name in manifest.files:
            storage.write_bytes(storage.join(to, name), _read_file(uri, manifest, name))
    except CheckpointError:
        storage.delete_tree(to)
        raise
    storage.write_bytes(storage.join(to, MANIFEST), storage.read_bytes(storage.join(uri, MANIFEST)))


def parse_file(uri: str, contents: Mapping[str, bytes], name: str, parse: Callable[[bytes], T]) -> T:
    """Return what `parse` makes of a file of a folder, whose files `read_folder` has returned.

    Raises:
        CheckpointError: the folder has no such file, or the file holds something else.
    """
    if name not in contents:
        raise CheckpointError(f"{uri} is not complete: its {MANIFEST} lists no {name}")
    try:
        return parse(contents[name])
    except Exception as error:  # parsers meet bytes that somebody made up with nearly every type
        what = f"{uri}/{name} holds something else than it should ({reason(error)})"
        raise CheckpointError(what) from None


def is_whole(uri: str, kind: str) -> bool:
    """Return whether a folder is of a kind and has all its files, by their sizes; nothing is hashed.

    Raises:
        StorageError: its store does not answer or refuses access.
    """
    try:
        return not _wrong_size(uri, read_manifest(uri, [kind]))
    except CheckpointError:
        return False


def read_manifest(uri: str, kinds: Sequence[str]) -> FolderManifest:
    """Return the manifest of a folder.

    Raises:
        CheckpointError: it is absent or damaged, or the folder is of another kind.
        StorageError: its store does not answer or refuses access.
    """
    wanted = " or ".join(kinds)
    try:
        found = FolderManifest.model_validate_json(storage.read_bytes(storage.join(uri, MANIFEST)))
    except AbsentError:
        raise CheckpointError(f"{uri} is not a {wanted}: it has no {MANIFEST}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise CheckpointError(f"{uri}/{MANIFEST} is damaged ({where}: {first['msg']})") from None
    if found.kind not in kinds or found.format != FORMAT:
        what = f"{uri} is a {found.kind} of format {found.format}, not a {wanted} of format {FORMAT}"
        raise CheckpointError(what)
    return found


def _wrong_size(uri: str, manifest: FolderManifest) -> str:
    """Return what is wrong with the files of a folder by their sizes; nothing if nothing is."""
    there = storage.file_sizes(uri)
    for name in manifest.files:
        if name not in there:
            return f"{uri} is not complete: {name} is missing"
        if there[name] != manifest.sizes.get(name, there[name]):
            return f"{uri}/{name} is damaged: {there[name]:,} bytes instead of {manifest.sizes[name]:,}"
    return ""
