"""One place that turns a path or URI into a filesystem; whatever is read or written goes through here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from gan_dist.errors import StorageError

T = TypeVar("T")


def open_uri(uri: str) -> tuple[Any, str]:
    """Return the pyarrow filesystem of a local path or URI, and the path inside it.

    Raises:
        StorageError: the URI's scheme or form is not understood.
    """
    import pyarrow
    from pyarrow import fs

    if "://" not in uri:
        return fs.LocalFileSystem(), str(Path(uri).expanduser().absolute())
    try:
        filesystem, path = fs.FileSystem.from_uri(uri)
    except (pyarrow.ArrowException, OSError, ValueError) as error:
        raise StorageError(
            f"{uri} cannot be opened ({error}); use a local path or a URI such as s3://bucket/prefix"
        ) from None
    return filesystem, path.rstrip("/")


def join(uri: str, *parts: str) -> str:
    """Return the URI of something inside a folder; a query such as `?region=...` stays at the end."""
    base, mark, query = uri.partition("?")
    return "/".join([base.rstrip("/"), *parts]) + mark + query


def exists(uri: str) -> bool:
    """Tell whether there is a file or folder at `uri`."""
    from pyarrow import fs

    filesystem, path = open_uri(uri)
    return bool(_guard(uri, lambda: filesystem.get_file_info(path).type != fs.FileType.NotFound))


def names(uri: str) -> list[str]:
    """Return the sorted names of what is directly inside a folder; an absent folder is an empty one."""
    from pyarrow import fs

    filesystem, path = open_uri(uri)
    selector = fs.FileSelector(path, allow_not_found=True)
    found = _guard(uri, lambda: filesystem.get_file_info(selector))
    return sorted(info.base_name for info in found)


def read_bytes(uri: str) -> bytes:
    """Return a whole file.

    Raises:
        StorageError: it does not exist or cannot be read.
    """
    filesystem, path = open_uri(uri)

    def read() -> bytes:
        with filesystem.open_input_stream(path) as stream:
            return bytes(stream.read())

    return _guard(uri, read)


def read_text(uri: str) -> str:
    """Return a whole UTF-8 file.

    Raises:
        StorageError: it does not exist, cannot be read, or is not UTF-8.
    """
    try:
        return read_bytes(uri).decode()
    except UnicodeDecodeError as error:
        raise StorageError(f"{uri} is not UTF-8 text (byte {error.start})") from None


def write_bytes(uri: str, content: bytes) -> None:
    """Write a whole file, making its folder; a reader sees the old content or the new, never a part."""
    filesystem, path = open_uri(uri)

    def write() -> None:
        if filesystem.type_name == "local":
            target = Path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.{os.getpid()}.partial")
            partial.write_bytes(content)
            partial.replace(target)
            return
        with filesystem.open_output_stream(path) as stream:
            stream.write(content)

    _guard(uri, write)


def append_text(uri: str, text: str) -> None:
    """Add text to the end of a file; object stores cannot append, so there the file is written anew."""
    filesystem, path = open_uri(uri)
    if filesystem.type_name != "local":
        earlier = read_bytes(uri) if exists(uri) else b""
        write_bytes(uri, earlier + text.encode())
        return

    def append() -> None:
        Path(path).parent.mkdir(parents=True, exist_ok=True)
        with Path(path).open("a", encoding="utf-8") as stream:
            stream.write(text)

    _guard(uri, append)


def copy_tree(source: str, destination: str) -> None:
    """Copy a folder's files, whichever filesystems both are on."""
    from pyarrow import fs

    source_fs, source_path = open_uri(source)
    destination_fs, destination_path = open_uri(destination)

    def copy() -> None:
        destination_fs.create_dir(destination_path, recursive=True)
        fs.copy_files(
            source_path,
            destination_path,
            source_filesystem=source_fs,
            destination_filesystem=destination_fs,
        )

    _guard(destination, copy)


def delete_file(uri: str) -> None:
    """Delete a file; an absent one is no error."""
    filesystem, path = open_uri(uri)
    if exists(uri):
        _guard(uri, lambda: filesystem.delete_file(path))


def delete_tree(uri: str) -> None:
    """Delete a folder and what is in it; an absent one is no error."""
    filesystem, path = open_uri(uri)
    if exists(uri):
        _guard(uri, lambda: filesystem.delete_dir(path))


def _guard(uri: str, action: Callable[[], T]) -> T:
    try:
        return action()
    except FileNotFoundError:
        raise StorageError(f"{uri} does not exist") from None
    except OSError as error:
        raise StorageError(f"{uri} cannot be used: {error}") from None
