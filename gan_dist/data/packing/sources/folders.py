"""Image files in folders, on a disk, in a bucket or in a ZIP: which of them are packed, and their labels."""

from __future__ import annotations

import posixpath
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from typing import NamedTuple

from gan_dist.core import storage
from gan_dist.core.errors import DataError
from gan_dist.data.packing.sources.files import NO_TARGET, Files
from gan_dist.data.packing.sources.items import (
    IMAGE_SUFFIXES,
    UNLABELLED,
    FoundFile,
    Item,
    Labelled,
    Origin,
    Rejection,
    Source,
    SourceOptions,
    counted,
    number_items,
    some,
    visible,
)
from gan_dist.data.packing.sources.labels import (
    LABEL_COLUMN,
    METADATA,
    METADATA_PATH,
    STYLEGAN_LABELS,
    metadata_labels,
    read_labels,
    stylegan_labels,
)
from gan_dist.data.packing.sources.splits import choose_split, split_of

LABEL_COLUMN_UNUSED = "--label-column is for Parquet files and lists of labels, such as metadata.csv"


class Tree(NamedTuple):
    """What is below a folder: how messages name it, its files and folders, sorted, and what reads a file."""

    uri: str
    files: list[FoundFile]
    folders: list[str]
    read: Callable[[str], bytes]


class _List(NamedTuple):
    """Labels that a list gives: its name, the label of each path, and what its paths are relative to."""

    name: str
    labels: dict[str, str]
    base: str = "the source"


def open_folder(root: str, tree: Tree, options: SourceOptions) -> Source:
    """Return the images of a folder.

    Raises:
        DataError: no image can be opened, or labels are not clear.
        StorageError: a list of labels cannot be read.
    """
    images, notes = label_images(tree, options)
    found = [
        (Labelled(Item(image.path, image.path, None, image.size, UNLABELLED), label), image.refused)
        for image, label in images
    ]
    return to_source(tree.uri, Files(root), found, notes, options)


def to_source(
    uri: str,
    origin: Origin,
    found: list[tuple[Labelled, str | None]],
    notes: list[str],
    options: SourceOptions,
) -> Source:
    """Return a source of labelled items, less those that have a reason not to be opened."""
    items, classes, more = number_items([labelled for labelled, _ in found], no_labels=options.no_labels)
    pairs = [(item, refused) for item, (_, refused) in zip(items, found, strict=True)]
    used = [item for item, refused in pairs if refused is None]
    rejected = [Rejection(item.name, refused) for item, refused in pairs if refused is not None]
    if not used:
        reasons = some(list(map(str, rejected)))
        raise DataError(
            f"{uri} holds no image that can be opened ({reasons})",
            "links need what they lead to" if NO_TARGET in (one.reason for one in rejected) else "",
        )
    return Source(origin, used, classes, rejected, [*notes, *more])


def label_images(tree: Tree, options: SourceOptions) -> tuple[list[tuple[FoundFile, str | None]], list[str]]:
    """Return the images of the split that is packed, with their labels, and notes.

    Labels are those of `--labels`, of StyleGAN's dataset.json, of Hugging Face's metadata files, or else the
    names of folders.

    Raises:
        DataError: labels are not clear, or there is no such split.
        StorageError: a list of labels cannot be read.
    """
    images = [file for file in tree.files if suffix_of(file) in IMAGE_SUFFIXES]
    notes: list[str] = []
    listing = None if options.no_labels else _find_list(tree, options, notes)
    if options.label_column is not None and not (listing and listing.labels):
        raise DataError(LABEL_COLUMN_UNUSED, "leave it out")
    whole = listing is not None and bool(listing.labels) and listing.base == "the source"
    used = choose_split(tree.uri, images, options.split, notes, by_folder=True, listed=whole)
    labels: Sequence[str | None] | None = None
    more: list[str] = []
    if listing is not None and listing.labels:
        labels = _match(listing, tree, used)
    elif listing is None and not options.no_labels:
        labels, more = _folder_labels(tree, [image.path for image in used])
    named = {STYLEGAN_LABELS, *(file.path for file in images), *_metadata(tree)}
    own = options.labels or ""
    if others := [file for file in tree.files if file.path not in named and not own.endswith(file.path)]:
        notes.append(f"left out what is not named like an image: {suffixes(others)}")
    return list(zip(used, labels or [None] * len(used), strict=True)), more + notes


def suffix_of(file: FoundFile) -> str:
    """Return the end of a file's name from its last dot, in small letters."""
    return posixpath.splitext(file.path)[1].lower()  # pathlib takes four times as long


def suffixes(files: Sequence[FoundFile]) -> str:
    """Return the commonest suffixes of files with their numbers, for a message."""
    counts = Counter(suffix_of(file) or "no suffix" for file in files)
    return ", ".join(f"{suffix} {count}" for suffix, count in counts.most_common(5))


def is_metadata(file: FoundFile) -> bool:
    """Return whether a file is named like one of Hugging Face's metadata files."""
    return posixpath.basename(file.path) in METADATA


def _metadata(tree: Tree) -> list[str]:
    return [file.path for file in tree.files if is_metadata(file) and file.refused is None]


def _find_list(tree: Tree, options: SourceOptions, notes: list[str]) -> _List | None:
    """Return the list that labels the images; one without labels says that folders are no classes either."""
    column = options.label_column or LABEL_COLUMN
    if options.labels is not None:
        return _List(options.labels, read_labels(options.labels, storage.read_bytes(options.labels), column))
    listing = _stylegan(tree) if options.label_column is None else None
    if listing is not None and listing.labels:
        notes.append(f"the labels are those of {STYLEGAN_LABELS}")
        return listing
    listed = _read_metadata(tree, options, column, notes)
    if listed is None and listing is not None:
        notes.append(f"no labels: {STYLEGAN_LABELS} gives none, and its folders are no classes")
    return listed or listing


def _stylegan(tree: Tree) -> _List | None:
    if STYLEGAN_LABELS not in (file.path for file in tree.files):
        return None
    uri = storage.join(tree.uri, STYLEGAN_LABELS)
    labels = stylegan_labels(uri, tree.read(STYLEGAN_LABELS))
    return None if labels is None else _List(uri, labels)


def _read_metadata(tree: Tree, options: SourceOptions, column: str, notes: list[str]) -> _List | None:
    """Return the labels of all metadata files together, None where there are none."""
    labels: dict[str, str] = {}
    names: list[str] = []
    for path in _metadata(tree):
        folder = posixpath.dirname(path)
        listed, columns = metadata_labels(storage.join(tree.uri, path), tree.read(path), column)
        if listed:
            names.append(path)
            for name, label in listed.items():
                labels.setdefault(posixpath.normpath(posixpath.join(folder, name)), label)
            continue
        has = some(list(columns))
        if options.label_column is not None:
            raise DataError(f"{path} of {tree.uri} has no labels in a column {column}", f"its columns: {has}")
        lacks = (
            f"no labels in a column {column}" if METADATA_PATH in columns else f"no column {METADATA_PATH}"
        )
        notes.append(f"{path} is passed over: {lacks} (its columns: {has})")
    if not names:
        return None
    notes.append(f"the labels are those of {some(names)}")
    return _List(f"{tree.uri}: {some(names)}", labels, "its folder")


def _match(listing: _List, tree: Tree, images: list[FoundFile]) -> list[str]:
    """Return the label of each image; all that a list names must be there, and no image may be missing."""
    labels = dict(listing.labels)
    present = {file.path for file in tree.files}
    alike: dict[str, list[str]] = defaultdict(list)
    for path in present - labels.keys():
        alike[visible(path)].append(path)
    unknown = []
    for listed in [path for path in labels if path not in present]:
        # File systems and editors write one name in several forms of Unicode, which look the same.
        if len(same := alike[visible(listed)]) == 1:
            labels[same.pop()] = labels[listed]
        else:
            unknown.append(listed)
    if unknown:
        lists = f"lists {counted(len(unknown), 'image')} that the source does not hold: {some(unknown)}"
        raise DataError(f"{listing.name} {lists}", f"paths are relative to {listing.base}")
    if missing := [image.path for image in images if image.path not in labels]:
        raise DataError(
            f"{listing.name} gives no label for {len(missing)} of {len(images)} images: {some(missing)}",
            "add them",
        )
    return [labels[image.path] for image in images]


def _folder_labels(tree: Tree, paths: list[str]) -> tuple[list[str] | None, list[str]]:
    """Return each image's first folder below its split, or None where no image is in one; and notes."""
    depth = 2 if all(split_of(path, by_folder=True) for path in paths) else 1
    loose = [path for path in paths if path.count("/") < depth]
    if len(loose) == len(paths):
        return None, []
    if loose:
        raise DataError(
            f"{tree.uri} holds {counted(len(loose), 'image')} beside its folders of classes: {some(loose)}",
            "move them into a folder, list labels with --labels, or use --no-labels",
        )
    labels = [path.split("/")[depth - 1] for path in paths]
    classes = set(labels)
    splits = {path.split("/")[0] for path in paths}
    deep = [folder.split("/") for folder in tree.folders if folder.count("/") == depth - 1]
    own = {names[-1] for names in deep if depth == 1 or names[0] in splits}
    empty = sorted(own - classes)
    return labels, [f"folders without an image are no classes: {some(empty)}"] if empty else []
