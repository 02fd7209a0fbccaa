"""A release that is a mixture of generators of a search: which may be its members, and its files."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace

from gan_dist.artifacts.best import BestRelease, find_releases, rank_runs
from gan_dist.artifacts.model_card import (
    CARD,
    describe_generator,
    find_set,
    front_matter,
    images_and_data,
    page,
)
from gan_dist.artifacts.publish import place_release
from gan_dist.artifacts.search_folder import is_search
from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError, GanDistError
from gan_dist.core.images import image_grid, to_png
from gan_dist.core.storage.hashed_folder import parse_file, read_folder, to_json
from gan_dist.core.storage.redaction import split_query
from gan_dist.models.generator import ImageShape, Release
from gan_dist.models.mixture import MIXTURE, Member, MixtureFile, member_files
from gan_dist.models.release import CONFIG, MEASURED, SAMPLES, SHAPE, WEIGHTS

CANDIDATES = 20
"""Trials whose best releases may become members: the best ones of a search."""
GRID = 64
"""Images in the picture of a release."""


def find_candidates(uri: str, prefer: str | None = None) -> tuple[list[BestRelease], list[str]]:
    """Return the best releases of a search's best trials, without their files, and warnings of others.

    Trials are in the order of `rank_runs`, and `prefer` is for that. All have images of the same shape, and
    as many classes.

    Raises:
        GanDistError: `uri` is no search.
        CheckpointError: there are fewer than two; or what `rank_runs` raises.
        StorageError: a file cannot be read.
    """
    shown = storage.redact(uri)
    if not is_search(uri):
        raise GanDistError(
            f"--mixture is of the trials of a search, and {shown} is none", "give the folder of a search"
        )
    ranking = rank_runs(uri, prefer)
    candidates: list[BestRelease] = []
    warnings = [*ranking.warnings]
    shape = None
    for found in find_releases(uri, ranking, warnings):
        own = parse_file(found.release, found.contents, SHAPE, ImageShape.from_json)
        shape = shape or own
        if own == shape:
            candidates.append(replace(found, contents={}))
        else:
            warnings.append(f"{storage.redact(found.release)} is passed over: its images have another shape")
        if len(candidates) == CANDIDATES:
            break
    if len(candidates) < 2:
        reasons = f": {'; '.join(warnings[:3])}" if warnings else ""
        raise CheckpointError(
            f"a mixture needs the releases of 2 trials at least, and {shown} has {len(candidates)}{reasons}",
            "wait for more of its trials, or leave --mixture out",
        )
    return candidates, warnings


def write_mixture(
    to: str,
    mixed: Release,
    members: Sequence[tuple[BestRelease, float]],
    judged: Mapping[str, float],
    measured: Mapping[str, object],
) -> bool:
    """Write a mixture as a release with a model card. Returns False if the folder had the same already.

    Args:
        to: The folder, as for `copy_release`.
        mixed: The mixture.
        members: What it consists of, with weights, the heaviest first.
        judged: `seed`, `held_out`, `single`, `chosen` and `real` of a `MixtureFile`.
        measured: Content of its `metrics.json`.

    Raises:
        CheckpointError: a member is gone or damaged.
        StorageError: the folder is not empty and no earlier copy of a release, or cannot be written.
    """
    contents: dict[str, bytes] = {}
    parts = []
    for number, (found, weight) in enumerate(members):
        _, files = read_folder(found.release, ["release"])
        contents |= dict(zip(member_files(number), (files[WEIGHTS], files[CONFIG]), strict=True))
        part = Member(
            weight=weight,
            source=storage.redact(found.release),
            sha256=hashlib.sha256(files[WEIGHTS]).hexdigest(),
            trial=found.trial,
            images=found.images,
            value=found.value,
        )
        parts.append(part)
        contents |= {CONFIG: files[CONFIG], SHAPE: files[SHAPE]} if number == 0 else {}
    described = MixtureFile.model_validate({"members": parts, **judged})
    name = split_query(to)[0].rstrip("/").rpartition("/")[2]
    card = _card(mixed, [found for found, _ in members], described, measured, name)
    contents |= {
        MIXTURE: to_json(described.model_dump()),
        MEASURED: to_json(dict(measured)),
        SAMPLES: to_png(image_grid(mixed.sample(GRID))),
        CARD: card.encode(),
    }
    return place_release(to, contents)


def _card(
    mixed: Release,
    members: Sequence[BestRelease],
    described: MixtureFile,
    measured: Mapping[str, object],
    folder: str,
) -> str:
    """Return the README.md of a mixture in `folder`."""
    made_by = f"a mixture of {len(members)}: the last of a latent's {mixed.latent_dim} numbers picks the one"
    path = mixed.config.data.path
    manifest = find_set(path)
    rows = [*images_and_data(mixed.shape, path, manifest), ("generators", made_by)]
    for number, (found, one) in enumerate(zip(members, described.members, strict=True)):
        parts = [
            f"{one.weight:.0%} of the images",
            f"trial {one.trial} after {one.images / 1000:g} kimg",
            describe_generator(found.config.model, mixed.shape),
            f"`{one.source}`, SHA-256 `{one.sha256}`",
        ]
        rows.append((f"member {number}", "; ".join(parts)))
    text = (
        f"{described.held_out:.6g} (lower is better), of {measured['samples']:,} generated images, from "
        f"{measured['reference_images']:,} real ones that had no part in the choice; {described.single:.6g} "
        f"of the search's best generator alone, {described.real:.6g} between the two halves"
    )
    rows.append((str(measured["metric"]), text))
    rows.append(("extractor", f"{measured['extractor']}, SHA-256 `{measured['extractor_sha256']}`"))
    front = front_matter(measured, path, manifest)
    return page(f"{members[0].name}, a mixture", rows, mixed.shape, folder, front)
