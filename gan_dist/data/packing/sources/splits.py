"""Splits of a source, such as `train` and `test`: which file is of which, and the one that is packed."""

from __future__ import annotations

import re

from gan_dist.core.errors import DataError
from gan_dist.data.packing.sources.items import FoundFile

SPLITS = frozenset(("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"))


def choose_split(
    uri: str,
    files: list[FoundFile],
    wanted: str | None,
    notes: list[str],
    *,
    by_folder: bool,
    listed: bool = False,
) -> list[FoundFile]:
    """Return the files of one split, `train` unless another is asked for; note the choice.

    Splits are named by the first folders of all images, or by words of the paths of tars, ZIPs and Parquet
    files. Where a list labels all images (`listed`) they are of no split unless one is asked for.

    Raises:
        DataError: there is no such split, or none to be preferred.
    """
    splits = [split_of(file.path, by_folder=by_folder) for file in files]
    names = sorted({split for split in splits if split is not None})
    listed = by_folder and (listed or None in splits)
    if wanted == "all" or (wanted is None and (listed or len(names) < 2)):
        return files
    chosen = wanted or next((name for name in ("train", "training") if name in names), None)
    if chosen not in names:
        has = f"holds the splits {', '.join(names)}" if names else "has no files named by splits"
        remedy = "choose one with --split, or mix them with --split all" if names else "leave --split out"
        raise DataError(f"{uri} {has}{f', not {wanted}' if wanted else ''}", remedy)
    if wanted is None:
        choices = "--split chooses another, --split all mixes them"
        notes.append(f"used the split {chosen} of {', '.join(names)}; {choices}")
    return [file for file, split in zip(files, splits, strict=True) if split == chosen]


def split_of(path: str, *, by_folder: bool) -> str | None:
    """Return the split that a path names, by its first folder or by its last word that is one."""
    lower = path.lower()
    words = [lower.partition("/")[0]] if by_folder else re.split(r"[^a-z]+", lower)
    return next((word for word in reversed(words) if word in SPLITS), None)
