"""Reading, writing, listing and deleting files, on local disks and in object stores alike."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import tempfile
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

from gan_dist.core.errors import StorageError
from gan_dist.core.storage import clouds
from gan_dist.core.storage.durable import append_to_file, require_file, resolve, write_file
from gan_dist.core.storage.filesystems import expand_home, open_uri
from gan_dist.core.storage.redaction import redact, split_query
from gan_dist.core.storage.retry import retrying
from gan_dist.core.storage.s3 import check_upload, delete_object, deleter, keys_below

DELETERS = 8
"""Objects of a folder that are deleted at the same time."""


def join(uri: str, *parts: str) -> str:
    """Return the URI of something inside a folder; a query such as `?region=...` stays at the end.

    Raises:
        StorageError: the URI names no bucket, or the name has a question mark: another object would be meant.
    """
    base, mark, query = split_query(uri)
    scheme, separator, path = base.rpartition("://")
    if separator and scheme != "file" and not path.strip("/"):
        raise StorageError(f"{uri} names no bucket", f"write {scheme}://BUCKET/FOLDER")
    if "://" in uri and (odd := [part for part in parts if "?" in part]):
        what = f"a key of {redact(uri)} has a question mark, which begins the settings of a URI: {odd[0]}"
        raise StorageError(what, "rename it")
    return scheme + separator + "/".join([path.rstrip("/"), *parts]) + mark + query


def exists(uri: str) -> bool:
    """Return whether there is a file or folder at `uri`."""
    from pyarrow import fs

    filesystem, path = open_uri(uri)
    return bool(retrying(uri, lambda: filesystem.get_file_info(path).type != fs.FileType.NotFound))


def file_sizes(uri: str) -> dict[str, int]:
    """Return the size in bytes of each file in a folder, by its name; an absent folder has none.

    Links count as what they lead to; folders, devices and pipes are left out.
    """
    return {name: size for name, size in _entries(uri) if size is not None}


def list_names(uri: str) -> list[str]:
    """Return the sorted names of the entries of a folder; an absent folder has none.

    Links to nothing are left out; bytes of a name that are no UTF-8 are spelled out.
    """
    return sorted(name for name, _ in _entries(uri))


def _entries(uri: str) -> list[tuple[str, int | None]]:
    """Return the names in a folder, which may be absent, and the sizes of those that are files."""
    from pyarrow import fs

    filesystem, path = open_uri(uri)
    if filesystem.type_name == "local":
        return retrying(uri, lambda: _local_entries(path))
    selector = fs.FileSelector(path, allow_not_found=True)
    found = retrying(uri, lambda: filesystem.get_file_info(selector))
    return [(info.base_name, info.size if info.type == fs.FileType.File else None) for info in found]


def _local_entries(path: str) -> list[tuple[str, int | None]]:
    """Do what `_entries` does, which pyarrow cannot where a name is not UTF-8."""
    found: list[tuple[str, int | None]] = []
    with suppress(FileNotFoundError), os.scandir(path) as entries:
        for entry in entries:
            try:
                status = entry.stat()
            except OSError as error:
                if error.errno not in (errno.ENOENT, errno.ELOOP):
                    raise
                continue  # a link to nothing, or deleted since
            name = os.fsencode(entry.name).decode(errors="backslashreplace")
            found.append((name, status.st_size if stat.S_ISREG(status.st_mode) else None))
    return found


def read_bytes(uri: str, start: int = 0) -> bytes:
    """Return the content of a file from byte `start` to its end; nothing if it ends before that byte.

    Raises:
        AbsentError: there is no such file.
        StorageError: it cannot be read, or is a device or a pipe.
    """
    filesystem, path = open_uri(uri)

    def read_local() -> bytes:
        require_file(path)
        with Path(path).open("rb") as stream:
            if start:  # which pipes cannot do
                stream.seek(start)
            return stream.read()

    if filesystem.type_name == "local":
        return retrying(uri, read_local)
    if filesystem.type_name == "gcs":
        size = retrying(uri, lambda: filesystem.get_file_info(path).size) or 0
        return retrying(uri, lambda: clouds.read_object(filesystem, path, start), size)

    def open_file() -> Any:
        return filesystem.open_input_file(path)

    file = retrying(uri, open_file)

    def read() -> bytes:
        nonlocal file
        opened, file = file or open_file(), None  # another try begins with the object's present size
        size = max(0, opened.size() - start)
        content: bytes = opened.read_at(size, min(start, opened.size()))
        if len(content) != size:
            raise OSError(f"{len(content)} of {size} bytes arrived")
        if filesystem.type_name in ("s3", "abfs"):
            # pyarrow asks for the size before the content. An object that is overwritten in between would be
            # returned in part; s3fs refuses to read it.
            file = open_file()
            if file.metadata().get("ETag") != opened.metadata().get("ETag"):
                raise OSError("it was overwritten while it was read")
        return content

    return retrying(uri, read, max(0, file.size() - start))


def read_text(uri: str) -> str:
    """Return the content of a file; a StorageError is raised if it cannot be read, or is not UTF-8."""
    try:
        return read_bytes(uri).decode()
    except UnicodeDecodeError as error:
        raise StorageError(f"{redact(uri)} is not UTF-8 text (byte {error.start})") from None


def write_bytes(uri: str, content: bytes) -> None:
    """Write a file and the folders above it; readers see the old content or the new, never a part.

    After the call the content outlasts a loss of power. On a local disk links are followed, files keep their
    mode, and devices and pipes are not replaced.
    """
    filesystem, path = open_uri(uri)
    beside = f"{path}.{secrets.token_hex(4)}.partial"

    def write() -> None:
        if filesystem.type_name == "local":
            write_file(path, content)
            return
        if filesystem.type_name == "abfs":
            clouds.write_blob(filesystem, path, content, beside)
            return
        with filesystem.open_output_stream(path) as stream:
            stream.write(content)

    retrying(uri, write, len(content))


def require_writable(uri: str) -> None:
    """Raise a StorageError if a file cannot be written; leave nothing behind."""
    filesystem, path = open_uri(uri)

    def create() -> None:
        target, status = resolve(path)
        if target.is_dir():
            raise IsADirectoryError
        if status is not None and not stat.S_ISREG(status.st_mode):
            if not os.access(target, os.W_OK):
                raise PermissionError("this user may not write it")
            return
        with remove_created_folders(str(target.parent)):
            target.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=target.parent).close()

    if filesystem.type_name == "local":
        retrying(uri, create)
    elif uri.startswith("s3://"):
        if "/" not in path:
            raise StorageError(f"{redact(uri)} is a bucket, where there should be a file in one")
        retrying(uri, lambda: check_upload(uri))
    elif clouds.is_cloud(uri):
        retrying(uri, lambda: clouds.try_upload(filesystem, f"{path}.{secrets.token_hex(4)}.partial"))


@contextmanager
def remove_created_folders(folder: str) -> Iterator[None]:
    """Afterwards, remove a local folder and those above it that did not exist before, if they are empty."""
    path = expand_home(folder).absolute()
    absent = [] if "://" in folder else [one for one in (path, *path.parents) if not one.exists()]
    try:
        yield
    finally:
        for one in absent:
            if one.is_dir() and not any(one.iterdir()):
                one.rmdir()


def append_text(uri: str, text: str, at: int | None = None) -> None:
    """Append text to a file; in object stores, which cannot append, the file is written anew.

    On a local disk, what the file has from byte `at` on is replaced, such as the part of an earlier try.
    """
    filesystem, path = open_uri(uri)
    if filesystem.type_name != "local":
        earlier = read_bytes(uri) if exists(uri) else b""
        write_bytes(uri, earlier + text.encode())
        return

    retrying(uri, lambda: append_to_file(path, text.encode(), at))


def names_below(root: str, paths: Iterable[str]) -> list[tuple[str, bool]]:
    """Return the name below a folder of each path that a listing gave, and whether it opens no other's file.

    Keys of a store may have slashes in a row, as local paths do not: there they open what has single ones.
    """
    names: list[tuple[str, bool]] = []
    seen: set[str] = set()
    for path in paths:
        key = path[len(root) + 1 :]
        plain = "/".join(part for part in key.split("/") if part)
        names.append((key, plain == key and key not in seen))
        seen.add(key)
    return names


def copy_tree(source: str, destination: str) -> None:
    """Copy the files of a folder to another folder, on any filesystem; `manifest.json` files come last.

    Raises:
        StorageError: one cannot be read or written, or has a key that no URI names.
    """
    from pyarrow import fs

    filesystem, root = open_uri(source)
    selector = fs.FileSelector(root, recursive=True)
    infos = retrying(source, lambda: filesystem.get_file_info(selector))
    files = names_below(root, (info.path for info in infos if info.type == fs.FileType.File))
    if odd := [name for name, is_plain in files if not is_plain]:
        what = f"{redact(source)} holds a key with slashes in a row, which opens another's: {odd[0]}"
        raise StorageError(what, "rename or delete it")
    ordered = sorted(files, key=lambda file: (file[0].endswith("manifest.json"), file))
    for before, after in [(join(source, name), join(destination, name)) for name, _ in ordered]:
        write_bytes(after, read_bytes(before))


def delete_file(uri: str) -> None:
    """Delete a file; an absent one is no error."""
    filesystem, path = open_uri(uri)
    if uri.startswith("s3://"):
        # pyarrow would leave an empty object in place of a folder that has no files any more.
        retrying(uri, lambda: delete_object(uri))
    elif clouds.is_cloud(uri):
        retrying(uri, lambda: clouds.delete_blob(filesystem, path))
    elif exists(uri):
        retrying(uri, lambda: filesystem.delete_file(path))


def delete_empty_folder(uri: str) -> None:
    """Delete a local folder if it is empty; object stores have no empty folders."""
    filesystem, path = open_uri(uri)
    if filesystem.type_name == "local":
        with suppress(OSError):
            Path(path).rmdir()


def delete_tree(uri: str) -> None:
    """Delete a folder and its contents; an absent one is no error.

    In stores objects are deleted one by one: not all stores have a request that deletes several.
    """
    filesystem, path = open_uri(uri)
    if uri.startswith("s3://"):
        keys, delete = retrying(uri, lambda: keys_below(uri)), deleter(uri)
    elif clouds.is_cloud(uri):
        keys, delete = (
            retrying(uri, lambda: clouds.objects_below(filesystem, path)),
            partial(clouds.delete_blob, filesystem),
        )
    else:
        if exists(uri):
            retrying(uri, lambda: filesystem.delete_dir(path))
        return
    with ThreadPoolExecutor(DELETERS) as pool:
        list(pool.map(lambda key: retrying(uri, lambda: delete(key)), keys))
    if filesystem.type_name == "abfs" and exists(uri):  # empty blobs that stand for folders
        retrying(uri, lambda: filesystem.delete_dir(path))
