"""Folders with a manifest of their files' hashes, as checkpoints and releases are.

The manifest is written last: a folder without one is incomplete, and one whose files differ is damaged.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Sequence

from gan_dist.core import storage
from gan_dist.core.errors import AbsentError, CheckpointError

FORMAT = 1
MANIFEST = "manifest.json"
_CHECKPOINT = re.compile(r"checkpoint_(\d{12})(?:-(\d+))?")


def to_json(value: object) -> bytes:
    """Return a value as readable JSON with sorted keys."""
    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def write_folder(uri: str, kind: str, contents: Iterable[tuple[str, bytes]]) -> None:
    """Write files, names and contents, to a folder, and last their manifest; `kind` is such as `release`."""
    files = {}
    for name, content in contents:
        storage.write_bytes(storage.join(uri, name), content)
        files[name] = hashlib.sha256(content).hexdigest()
    manifest = {"format": FORMAT, "kind": kind, "files": files}
    storage.write_bytes(storage.join(uri, MANIFEST), to_json(manifest))


def checkpoint_names(run_uri: str) -> list[str]:
    """Return the names of a run's checkpoints, the newest first."""
    return sorted_checkpoints(storage.list_names(run_uri))


def sorted_checkpoints(names: Sequence[str]) -> list[str]:
    """Return the checkpoints among the names in a folder, in the order of `checkpoint_names`."""
    found = [match for name in names if (match := _CHECKPOINT.fullmatch(name))]
    found.sort(key=lambda match: (int(match[1]), int(match[2] or 0)), reverse=True)
    return [match[0] for match in found]


def read_folder(uri: str, kinds: Sequence[str]) -> tuple[str, dict[str, bytes]]:
    """Return a folder's kind and its files' contents, after checking their hashes.

    Raises:
        CheckpointError: the folder is absent, of another kind, incomplete or damaged.
        StorageError: its store does not answer or refuses access.
    """
    wanted = " or ".join(kinds)
    try:
        manifest = json.loads(storage.read_bytes(storage.join(uri, MANIFEST)))
        kind, version, hashes = manifest["kind"], manifest["format"], dict(manifest["files"])
    except AbsentError:
        raise CheckpointError(f"{uri} is not a {wanted}: it has no {MANIFEST}") from None
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(f"{uri}/{MANIFEST} is damaged ({error!r})") from None
    if kind not in kinds or version != FORMAT:
        raise CheckpointError(f"{uri} is a {kind} of format {version}, not a {wanted} of format {FORMAT}")
    contents = {}
    for name, expected in hashes.items():
        try:
            contents[name] = storage.read_bytes(storage.join(uri, name))
        except AbsentError:
            raise CheckpointError(f"{uri} is not complete: {name} is missing") from None
        if hashlib.sha256(contents[name]).hexdigest() != expected:
            raise CheckpointError(f"{uri}/{name} is damaged: its sha256 is not the one in {MANIFEST}")
    return kind, contents
