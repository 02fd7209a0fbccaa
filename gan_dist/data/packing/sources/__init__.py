"""Sources of images to pack: folders, tars, Parquet files and torchvision's sets; local or in a bucket.

A source is opened once, which lists its items in a fixed order without reading pixels. An item is a small
reference; any process turns it into an image file's bytes with the source's `origin`.
"""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import replace
from pathlib import PurePosixPath

from gan_dist.core import storage
from gan_dist.core.errors import DataError
from gan_dist.data.packing.sources.files import Files, find_files
from gan_dist.data.packing.sources.items import (
    CONTAINER_SUFFIXES,
    IMAGE_SUFFIXES,
    TABLE_SUFFIX,
    TAR_SUFFIX,
    UNLABELLED,
    FoundFile,
    Item,
    Labelled,
    Rejection,
    Source,
    SourceOptions,
    counted,
    number_items,
    read_labels,
    some,
    stylegan_labels,
    visible,
)
from gan_dist.data.packing.sources.torchvision_sets import TORCHVISION, open_torchvision

__all__ = [
    "CONTAINER_SUFFIXES",
    "IMAGE_SUFFIXES",
    "Rejection",
    "Source",
    "SourceOptions",
    "counted",
    "open_source",
]

SPLITS = frozenset(("train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval"))
STYLEGAN_LABELS = "dataset.json"


def open_source(uri: str, options: SourceOptions) -> Source:
    """Return what there is to pack at a path or URI.

    Raises:
        DataError: there is nothing to pack, or its labels are not clear.
        StorageError: it cannot be read.
    """
    if options.labels is not None and options.no_labels:
        raise DataError("--labels and --no-labels exclude each other")
    if uri.startswith(TORCHVISION):
        _refuse_labels_file(options, "torchvision's sets bring their own labels")
        _refuse_columns(options)
        if options.split is not None:
            raise DataError("--split is for files and folders", "write torchvision://NAME?split=test")
        return open_torchvision(uri, options)
    root, files, folders = find_files(uri)
    paths = {file.path for file in files}
    images = [file for file in files if _suffix(file) in IMAGE_SUFFIXES]
    tars = [file for file in files if _suffix(file) == TAR_SUFFIX]
    tables = [file for file in files if _suffix(file) == TABLE_SUFFIX]
    if "manifest.json" in paths and tables and not images:
        raise DataError(f"{uri} is a packed set already", "give the folder that it was packed from")
    kinds = {"image": images, "tar": tars, "Parquet file": tables}
    found = [counted(len(group), kind) for kind, group in kinds.items() if group]
    if len(found) > 1:
        raise DataError(f"{uri} holds {' and '.join(found)}", "give a folder that holds one kind")
    if not found:
        other = f"; its {len(files)} files are named otherwise ({_suffixes(files)})" if files else ""
        raise DataError(f"{uri} holds no images, tars or Parquet files{other}")
    for file in (*tars, *tables):
        if file.refused is not None:
            raise DataError(
                f"{file.path} of {uri} is {file.refused}", "put a file in its place, or remove it"
            )
    if not tables:
        _refuse_columns(options)
    if not images:
        _refuse_labels_file(options, "tars and Parquet files carry their labels")
    notes: list[str] = []
    if images and STYLEGAN_LABELS in paths and options.labels is None and not options.no_labels:
        options = _use_stylegan_labels(storage.join(root, STYLEGAN_LABELS), options, notes)
    used = _choose_split(uri, images or tars or tables, options, notes, by_folder=bool(images))
    if images:
        source = _open_folder(uri, root, used, folders, options)
    elif tars:
        from gan_dist.data.packing.sources.tars import open_tars

        source = open_tars(root, used, options)
    else:
        from gan_dist.data.packing.sources.tables import open_parquet

        source = open_parquet(root, used, options)
    named = {file.path for file in (*images, *tars, *tables)} | {STYLEGAN_LABELS}
    listing = options.labels or ""
    if others := [file for file in files if file.path not in named and not listing.endswith(file.path)]:
        kind = "an image" if images else "a tar" if tars else "a Parquet file"
        notes.append(f"left out what is not named like {kind}: {_suffixes(others)}")
    return replace(source, notes=[*source.notes, *notes])


def _use_stylegan_labels(listing: str, options: SourceOptions, notes: list[str]) -> SourceOptions:
    listed = stylegan_labels(storage.read_text(listing))
    if listed is None:
        return options
    if not listed:
        notes.append(f"no labels: {STYLEGAN_LABELS} gives none, and its folders are no classes")
        return replace(options, no_labels=True)
    notes.append(f"the labels are those of {STYLEGAN_LABELS}")
    return replace(options, labels=listing)


def _choose_split(
    uri: str, files: list[FoundFile], options: SourceOptions, notes: list[str], *, by_folder: bool
) -> list[FoundFile]:
    """Return the files of one split, `train` unless another is asked for; note the choice.

    Splits are named by the first folders of all images, or by words of the paths of tars and Parquet files.
    """
    splits = [_split_of(file.path, by_folder=by_folder) for file in files]
    names = sorted({split for split in splits if split is not None})
    listed = by_folder and (options.labels is not None or None in splits)
    wanted = options.split
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


def _split_of(path: str, *, by_folder: bool) -> str | None:
    lower = path.lower()
    words = [lower.partition("/")[0]] if by_folder else re.split(r"[^a-z]+", lower)
    return next((word for word in reversed(words) if word in SPLITS), None)


def _refuse_labels_file(options: SourceOptions, why: str) -> None:
    if options.labels is not None:
        raise DataError(f"--labels is for folders of images: {why}", "leave it out, or use --no-labels")


def _refuse_columns(options: SourceOptions) -> None:
    if options.image_column is not None or options.label_column is not None:
        raise DataError("--image-column and --label-column are for Parquet files", "leave them out")


def _suffix(file: FoundFile) -> str:
    return PurePosixPath(file.path).suffix.lower()


def _suffixes(files: Sequence[FoundFile]) -> str:
    counts = Counter(_suffix(file) or "no suffix" for file in files)
    return ", ".join(f"{suffix} {count}" for suffix, count in counts.most_common(5))


def _open_folder(
    uri: str, root: str, images: list[FoundFile], folders: list[str], options: SourceOptions
) -> Source:
    paths = [image.path for image in images]
    labels: Sequence[str | None] | None = None
    more: list[str] = []
    if options.labels is not None:
        labels = _listed_labels(options.labels, paths)
    elif not options.no_labels:
        labels, more = _folder_labels(uri, paths, folders)
    found = [
        Labelled(Item(image.path, image.path, None, image.size, UNLABELLED), label)
        for image, label in zip(images, labels or [None] * len(images), strict=True)
    ]
    numbered, classes, notes = number_items(found, no_labels=options.no_labels)
    items = [item for item, image in zip(numbered, images, strict=True) if image.refused is None]
    rejected = [Rejection(image.path, image.refused) for image in images if image.refused is not None]
    if not items:
        reasons = some(list(map(str, rejected)))
        raise DataError(
            f"{uri} holds no image that can be opened ({reasons})", "links need what they lead to"
        )
    return Source(Files(root), items, classes, rejected, more + notes)


def _listed_labels(uri: str, paths: list[str]) -> list[str]:
    labels = read_labels(uri)
    present = set(paths)
    alike: dict[str, list[str]] = defaultdict(list)
    for path in paths:
        if path not in labels:
            alike[visible(path)].append(path)
    unknown = []
    for listed in [path for path in labels if path not in present]:
        # File systems and editors write one name in several forms of Unicode, which look the same.
        if len(same := alike[visible(listed)]) == 1:
            labels[same.pop()] = labels[listed]
        else:
            unknown.append(listed)
    if unknown:
        raise DataError(
            f"{uri} lists {counted(len(unknown), 'image')} that the source does not hold: {some(unknown)}",
            "paths are relative to the source",
        )
    if missing := [path for path in paths if path not in labels]:
        raise DataError(
            f"{uri} gives no label for {len(missing)} of {len(paths)} images: {some(missing)}", "add them"
        )
    return [labels[path] for path in paths]


def _folder_labels(uri: str, paths: list[str], folders: list[str]) -> tuple[list[str] | None, list[str]]:
    """Return each image's first folder below its split, or None where no image is in one; and notes."""
    depth = 2 if all(_split_of(path, by_folder=True) for path in paths) else 1
    loose = [path for path in paths if path.count("/") < depth]
    if len(loose) == len(paths):
        return None, []
    if loose:
        raise DataError(
            f"{uri} holds {counted(len(loose), 'image')} beside its folders of classes: {some(loose)}",
            "move them into a folder, list labels with --labels, or use --no-labels",
        )
    labels = [path.split("/")[depth - 1] for path in paths]
    classes = set(labels)
    deep = [folder.split("/") for folder in folders if folder.count("/") == depth - 1]
    empty = sorted({names[-1] for names in deep if names[-1] not in classes})
    return labels, [f"folders without an image are no classes: {some(empty)}"] if empty else []
