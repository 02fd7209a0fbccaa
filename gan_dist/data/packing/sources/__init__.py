"""Sources of images to pack: folders, tars, Parquet files and torchvision's sets; local or in a bucket.

A source is opened once, which lists its items in a fixed order without reading pixels. An item is a small
reference; any process turns it into an image file's bytes with the source's `origin`.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import PurePosixPath

from gan_dist.core.errors import DataError
from gan_dist.data.packing.sources.files import Files, find_files
from gan_dist.data.packing.sources.items import (
    IMAGE_SUFFIXES,
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
)
from gan_dist.data.packing.sources.torchvision_sets import TORCHVISION, open_torchvision

__all__ = ["Rejection", "Source", "SourceOptions", "counted", "open_source"]


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
        return open_torchvision(uri, options)
    root, files = find_files(uri)
    images = [file for file in files if _suffix(file) in IMAGE_SUFFIXES]
    tars = [file for file in files if _suffix(file) == ".tar"]
    tables = [file for file in files if _suffix(file) == ".parquet"]
    if any(file.path == "manifest.json" for file in files) and tables and not images:
        raise DataError(f"{uri} is a packed set already", "give the folder that it was packed from")
    kinds = {"image": images, "tar": tars, "Parquet file": tables}
    found = [counted(len(group), kind) for kind, group in kinds.items() if group]
    if len(found) > 1:
        raise DataError(f"{uri} holds {' and '.join(found)}", "give a folder that holds one kind")
    if not found:
        others = f"; its {len(files)} files are named otherwise ({_suffixes(files)})" if files else ""
        raise DataError(f"{uri} holds no images, tars or Parquet files{others}")
    for file in (*tars, *tables):
        if file.refused is not None:
            raise DataError(
                f"{file.path} of {uri} is {file.refused}", "put a file in its place, or remove it"
            )
    if not tables:
        _refuse_columns(options)
    if images:
        return _open_folder(uri, root, images, files, options)
    _refuse_labels_file(options, "tars and Parquet files carry their labels")
    if tars:
        from gan_dist.data.packing.sources.tars import open_tars

        return open_tars(root, tars, options)
    from gan_dist.data.packing.sources.tables import open_parquet

    return open_parquet(root, tables, options)


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
    uri: str, root: str, images: list[FoundFile], files: list[FoundFile], options: SourceOptions
) -> Source:
    paths = [image.path for image in images]
    labels: Sequence[str | None] | None = None
    if options.labels is not None:
        labels = _listed_labels(options.labels, paths)
    elif not options.no_labels:
        labels = _folder_labels(uri, paths)
    found = [
        Labelled(Item(image.path, image.path, None, image.size, UNLABELLED), label)
        for image, label in zip(images, labels or [None] * len(images), strict=True)
    ]
    numbered, classes = number_items(found, no_labels=options.no_labels)
    items = [item for item, image in zip(numbered, images, strict=True) if image.refused is None]
    rejected = [Rejection(image.path, image.refused) for image in images if image.refused is not None]
    if not items:
        reasons = some(list(map(str, rejected)))
        raise DataError(
            f"{uri} holds no image that can be opened ({reasons})", "links need what they lead to"
        )
    listing = options.labels or ""
    others = [
        file for file in files if _suffix(file) not in IMAGE_SUFFIXES and not listing.endswith(file.path)
    ]
    notes = [f"left out what is not named like an image: {_suffixes(others)}"] if others else []
    return Source(Files(root), items, classes, rejected, notes)


def _listed_labels(uri: str, paths: list[str]) -> list[str]:
    labels = read_labels(uri)
    present = set(paths)
    if unknown := [path for path in labels if path not in present]:
        raise DataError(
            f"{uri} lists {counted(len(unknown), 'image')} that the source does not hold: {some(unknown)}",
            "paths are relative to the source",
        )
    if missing := [path for path in paths if path not in labels]:
        raise DataError(
            f"{uri} gives no label for {len(missing)} of {len(paths)} images: {some(missing)}", "add them"
        )
    return [labels[path] for path in paths]


def _folder_labels(uri: str, paths: list[str]) -> list[str] | None:
    """Return each image's first folder, or None where no image lies in one."""
    loose = [path for path in paths if "/" not in path]
    if len(loose) == len(paths):
        return None
    if loose:
        raise DataError(
            f"{uri} holds {counted(len(loose), 'image')} beside its folders of classes: {some(loose)}",
            "move them into a folder, list labels with --labels, or use --no-labels",
        )
    return [path.partition("/")[0] for path in paths]
