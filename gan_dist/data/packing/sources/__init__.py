"""Sources of images to pack: folders, ZIPs, tars, Parquet files, LMDBs and torchvision's sets.

A source is opened once, which lists its items in a fixed order without reading pixels. An item is a small
reference; any process turns it into an image file's bytes with the source's `origin`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from gan_dist.core import storage
from gan_dist.core.errors import DataError
from gan_dist.data.packing.sources.files import find_files
from gan_dist.data.packing.sources.folders import (
    LABEL_COLUMN_UNUSED,
    Tree,
    is_metadata,
    open_folder,
    suffix_of,
    suffixes,
)
from gan_dist.data.packing.sources.items import (
    IMAGE_SUFFIXES,
    LMDB_SUFFIXES,
    TABLE_SUFFIX,
    TAR_SUFFIX,
    ZIP_SUFFIX,
    FoundFile,
    Rejection,
    Source,
    SourceOptions,
    counted,
    some,
)
from gan_dist.data.packing.sources.lmdbs import is_lock, open_lmdbs
from gan_dist.data.packing.sources.splits import choose_split
from gan_dist.data.packing.sources.torchvision_sets import TORCHVISION, open_torchvision
from gan_dist.data.packing.sources.zips import open_zips

IMAGE, ZIP, TAR, TABLE, LMDB = "image", "ZIP", "tar", "Parquet file", "LMDB"
ARTICLES = {ZIP: "a ZIP", TAR: "a tar", TABLE: "a Parquet file", LMDB: "an LMDB"}


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
    skipped: list[str] = []
    if options.skip is not None:
        inside = f"{options.skip}/"
        if any(file.path.startswith(inside) and suffix_of(file) in IMAGE_SUFFIXES for file in files):
            skipped = [f"left out the images in {options.skip}"]
        files = [file for file in files if not file.path.startswith(inside)]
        folders = [name for name in folders if not f"{name}/".startswith(inside)]
    closed = [Rejection(file.path, file.refused or "") for file in files if file.is_folder]
    try:
        source = _open(uri, root, [file for file in files if not file.is_folder], folders, options)
    except DataError as error:
        # What is missing may be there.
        more = [some(list(map(str, closed)))] if closed else []
        raise DataError(
            [replace(one, remedy="; ".join(filter(None, (one.remedy, *more)))) for one in error.problems]
        ) from None
    return replace(source, rejected=[*source.rejected, *closed], notes=[*skipped, *source.notes])


def _open(uri: str, root: str, files: list[FoundFile], folders: list[str], options: SourceOptions) -> Source:
    kind, found = _only_kind(uri, files)
    if kind != TABLE:
        _refuse_columns(options, both=kind not in (IMAGE, ZIP))
    if kind == IMAGE:
        tree = Tree(uri, files, folders, lambda path: storage.read_bytes(storage.join(root, path)))
        return open_folder(root, tree, options)
    for file in found:
        if file.refused is not None:
            raise DataError(
                f"{file.path} of {uri} is {file.refused}", "put a file in its place, or remove it"
            )
    if kind == ZIP:
        source = open_zips(uri, root, found, options)
    else:
        _refuse_labels_file(options, "tars and Parquet files carry their labels, and LMDBs have none")
        notes: list[str] = []
        used = choose_split(uri, found, options.split, notes, by_folder=False)
        source = _opener(kind)(root, used, options)
        source = replace(source, notes=[*source.notes, *notes])
    names = {file.path for file in found}
    if others := [file for file in files if file.path not in names and not is_lock(file)]:
        note = f"left out what is not named like {ARTICLES[kind]}: {suffixes(others)}"
        source = replace(source, notes=[*source.notes, note])
    return source


def _only_kind(uri: str, files: list[FoundFile]) -> tuple[str, list[FoundFile]]:
    """Return the one kind of files with images that a source holds, and these files."""
    kinds: dict[str, list[FoundFile]] = {
        IMAGE: [file for file in files if suffix_of(file) in IMAGE_SUFFIXES],
        ZIP: [file for file in files if suffix_of(file) == ZIP_SUFFIX],
        TAR: [file for file in files if suffix_of(file) == TAR_SUFFIX],
        TABLE: [file for file in files if suffix_of(file) == TABLE_SUFFIX],
        LMDB: [file for file in files if suffix_of(file) in LMDB_SUFFIXES and not is_lock(file)],
    }
    if kinds[IMAGE]:
        kinds[TABLE] = [file for file in kinds[TABLE] if not is_metadata(file)]
    elif kinds[TABLE] and any(file.path == "manifest.json" for file in files):
        raise DataError(f"{uri} is a packed set already", "give the folder that it was packed from")
    present = [kind for kind, group in kinds.items() if group]
    if len(present) > 1:
        found = " and ".join(counted(len(kinds[kind]), kind) for kind in present)
        raise DataError(f"{uri} holds {found}", "give a folder that holds one kind")
    if not present:
        other = f"; its {len(files)} files are named otherwise ({suffixes(files)})" if files else ""
        raise DataError(f"{uri} holds no images, ZIPs, tars, Parquet files or LMDBs{other}")
    return present[0], kinds[present[0]]


def _opener(kind: str) -> Callable[[str, Sequence[FoundFile], SourceOptions], Source]:
    if kind == TAR:
        from gan_dist.data.packing.sources.tars import open_tars

        return open_tars
    if kind == LMDB:
        return lambda root, files, _: open_lmdbs(root, files)
    from gan_dist.data.packing.sources.tables import open_parquet  # pyarrow takes half a second

    return open_parquet


def _refuse_labels_file(options: SourceOptions, why: str) -> None:
    if options.labels is not None:
        raise DataError(f"--labels is for folders of images: {why}", "leave it out, or use --no-labels")


def _refuse_columns(options: SourceOptions, *, both: bool = True) -> None:
    if options.image_column is not None:
        raise DataError("--image-column is for Parquet files", "leave it out")
    if both and options.label_column is not None:
        raise DataError(LABEL_COLUMN_UNUSED, "leave it out")
