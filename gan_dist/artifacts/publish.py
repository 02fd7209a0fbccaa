"""Copy a release, with a model card, into a folder of its own or into a model repository."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from gan_dist.artifacts.best import BestRelease, find_best
from gan_dist.artifacts.model_card import CARD, model_card
from gan_dist.artifacts.records import distance_name, is_score
from gan_dist.config import load_config
from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError, StorageError
from gan_dist.core.json_text import parse_object
from gan_dist.core.storage import hub
from gan_dist.core.storage.hashed_folder import (
    MANIFEST,
    format_manifest,
    parse_file,
    part_of,
    read_folder,
    replace_folder,
)
from gan_dist.core.storage.redaction import split_query
from gan_dist.models.mixture import MIXTURE
from gan_dist.models.release import CONFIG, DISCRIMINATOR, MEASURED, SAMPLES, SHAPE, WEIGHTS

_PARTS = (WEIGHTS, DISCRIMINATOR, MIXTURE)
"""Files that one release has and another has not."""


def copy_release(found: BestRelease, to: str, *, with_discriminator: bool = False) -> bool:
    """Copy a release into a folder, with a model card, and with its discriminator if that is asked for.

    A kill at any moment leaves the earlier release or the new one, as `replace_folder` says; the next call
    completes the copy. Returns False if the folder had the same release already; then nothing is written.

    Raises:
        CheckpointError: it has no discriminator.
        StorageError: the folder is not empty and no earlier copy of a release, or cannot be written.
    """
    name = split_query(to)[0].rstrip("/").rpartition("/")[2]
    contents = _contents(found, with_discriminator=with_discriminator)
    contents[CARD] = model_card(found, name).encode()
    return place_release(to, contents)


def place_release(to: str, contents: Mapping[str, bytes]) -> bool:
    """Write a release with its card into a folder, as `copy_release` says; raise its StorageError."""
    require_free(to)
    written = replace_folder(to, "release", contents)
    for name in storage.list_names(to):
        if name not in contents and (name in _PARTS or name.startswith("member-")):
            storage.delete_file(storage.join(to, name))  # of an earlier copy
    return written


def require_free(to: str) -> None:
    """Raise a StorageError if a folder is neither empty nor an earlier copy of a release."""
    names = storage.list_names(to)
    if not names:
        return
    if MANIFEST in names:
        with suppress(ValueError, KeyError, TypeError):
            manifest = parse_object(storage.read_bytes(storage.join(to, MANIFEST)))
            if manifest["kind"] == part_of("release") or (
                manifest["kind"] == "release" and CARD in manifest["files"]
            ):
                return
    more = ", ..." if len(names) > 3 else ""
    raise StorageError(
        f"{storage.redact(to)} holds {', '.join(names[:3])}{more}, and no release that `gan-dist best` put "
        "there",
        "give --to another folder, or empty this one",
    )


def find_release(uri: str) -> BestRelease:
    """Return the release in a folder by its distance, or what `find_best` does of a search or run.

    Raises:
        CheckpointError: it is damaged or has no score, or what `find_best` raises.
        StorageError: a file cannot be read.
    """
    if not storage.exists(storage.join(uri, MANIFEST)):
        return find_best(uri)
    _, contents = read_folder(uri, ["release"])
    for name in (CARD if MIXTURE in contents else WEIGHTS, SHAPE, SAMPLES):
        parse_file(uri, contents, name, bytes)
    record = parse_file(uri, contents, MEASURED, parse_object)
    metric = distance_name([record]) or next(filter(is_score, record), None)
    if metric is None:
        raise CheckpointError(f"{storage.redact(uri)}/{MEASURED} has no score")
    config = load_config(storage.join(uri, CONFIG))
    return BestRelease(uri, uri, None, 1, metric, "min", record, uri, contents, config)


def publish(
    found: BestRelease,
    to: str,
    *,
    with_discriminator: bool = False,
    replace: bool = False,
    private: bool = False,
    license_name: str | None = None,
) -> str:
    """Write a release and its model card into a model repository, in one commit; return the commit's URL.

    The card is not among the files whose hashes the manifest has: it may be edited where it is.

    Args:
        found: The release.
        to: `hf://user/name`; a repository that is not there is made.
        with_discriminator: Also write what `init.from` needs to train on.
        replace: Delete what else a repository holds that holds no release.
        private: Make a new repository that only its owners see.
        license_name: Of the weights; that of the images when absent.

    Raises:
        CheckpointError: it has no discriminator.
        StorageError: what `hub.upload` raises; nothing is written then.
    """
    contents = _contents(found, with_discriminator=with_discriminator)
    files = {**contents, CARD: model_card(found, to, license_name).encode()}
    files[MANIFEST] = format_manifest("release", contents)
    return hub.upload(to, files, f"{found.metric} {found.value:.6g}", replace=replace, private=private)


def _contents(found: BestRelease, *, with_discriminator: bool) -> dict[str, bytes]:
    """Return the files of a release, without an earlier card."""
    if with_discriminator and DISCRIMINATOR not in found.contents:
        shown = storage.redact(found.release)
        raise CheckpointError(
            f"--with-discriminator: {shown} has none, since an earlier version wrote it",
            "train on from a checkpoint of its run (init.from), or go on with the run to a better one",
        )
    left_out = {CARD} if with_discriminator else {CARD, DISCRIMINATOR}
    return {name: content for name, content in found.contents.items() if name not in left_out}
