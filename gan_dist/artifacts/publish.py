"""A release put into a folder of its own, to be kept or handed on, with a model card."""

from __future__ import annotations

import json
from contextlib import suppress

from gan_dist.artifacts.best import BestRelease
from gan_dist.artifacts.model_card import model_card
from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError, StorageError
from gan_dist.core.storage.hashed_folder import MANIFEST, read_folder, write_folder

CARD = "README.md"
PART = "part of a release"
"""What a folder is, by its manifest, while a release is copied into it."""


def copy_release(found: BestRelease, to: str) -> bool:
    """Copy a release into a folder, with a model card.

    A kill at any moment leaves the earlier release, a folder that is refused as a part of one, or the new
    release; called again, it completes what was begun.

    Args:
        found: The release.
        to: The folder: absent, empty, or one that this has written before.

    Returns:
        False if the release was there already, whole and the same; then nothing is written.

    Raises:
        StorageError: the folder holds something else, or cannot be written.
    """
    name = to.partition("?")[0].rstrip("/").rpartition("/")[2]
    contents = {**found.contents, CARD: model_card(found, name).encode()}
    _require_free(to)
    with suppress(CheckpointError):
        if read_folder(to, ["release"])[1] == contents:
            return False
    write_folder(to, PART, {})
    write_folder(to, "release", contents)
    return True


def _require_free(to: str) -> None:
    """Refuse a folder that holds anything other than what an earlier copy has left.

    Raises:
        StorageError: it does, with what to do instead.
    """
    there = storage.list_names(to)
    if not there:
        return
    if MANIFEST in there:
        with suppress(ValueError, KeyError, TypeError):
            manifest = json.loads(storage.read_bytes(storage.join(to, MANIFEST)))
            if manifest["kind"] == PART or (manifest["kind"] == "release" and CARD in manifest["files"]):
                return
    more = ", ..." if len(there) > 3 else ""
    raise StorageError(
        f"{storage.redact(to)} holds {', '.join(there[:3])}{more}, and no release that `gan-dist best` put "
        "there",
        "give --to another folder, or empty this one",
    )
