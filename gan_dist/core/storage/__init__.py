"""One place that turns a path or URI into a filesystem; whatever is read or written goes through here."""

from __future__ import annotations

import errno
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from gan_dist.core.errors import StorageError
from gan_dist.core.storage.filesystems import BACKENDS, StorageOptions, configure, open_uri, options
from gan_dist.core.storage.redaction import cut, redact
from gan_dist.core.storage.retry import place, require_bucket, retrying
from gan_dist.core.storage.s3 import begin_upload, forget_folder

__all__ = [
    "BACKENDS",
    "StorageOptions",
    "append_text",
    "configure",
    "copy_tree",
    "delete_empty_folder",
    "delete_file",
    "delete_tree",
    "exists",
    "join",
    "left_as_it_was",
    "names",
    "open_uri",
    "options",
    "place",
    "read_bytes",
    "read_text",
    "redact",
    "require_bucket",
    "require_writable",
    "retrying",
    "write_bytes",
]

REWRITES = 20
"""Times that a file may be overwritten while it is read before reading it is given up."""


def join(uri: str, *parts: str) -> str:
    """Return the URI of something inside a folder; a query such as `?region=...` stays at the end."""
    base, mark, query = cut(uri)
    return "/".join([base.rstrip("/"), *parts]) + mark + query


def exists(uri: str) -> bool:
    """Tell whether there is a file or folder at `uri`."""
    from pyarrow import fs

    filesystem, path = open_uri(uri)
    return bool(retrying(uri, lambda: filesystem.get_file_info(path).type != fs.FileType.NotFound))


def names(uri: str) -> list[str]:
    """Return the sorted names of what is directly inside a folder; an absent folder is an empty one."""
    from pyarrow import fs

    filesystem, path = open_uri(uri)
    selector = fs.FileSelector(path, allow_not_found=True)
    found = retrying(uri, lambda: filesystem.get_file_info(selector))
    return sorted(info.base_name for info in found)


def read_bytes(uri: str, start: int = 0) -> bytes:
    """Return a file from byte `start` to its end; nothing where the file ends before that byte.

    Raises:
        AbsentError: there is no such file.
        StorageError: it cannot be read.
    """
    filesystem, path = open_uri(uri)

    def opened() -> Any:
        return filesystem.open_input_file(path)

    def read() -> bytes | None:
        try:
            content: bytes = file.read_at(size - first, first)
        except OSError as error:
            if error.errno == errno.EBUSY:  # s3fs: it is no longer the object whose size was asked
                return None
            raise
        if len(content) != size - first:
            raise OSError(f"{len(content)} of {size - first} bytes arrived")
        return content

    file = retrying(uri, opened)
    for _ in range(REWRITES):
        size = file.size()
        first = min(start, size)
        content = retrying(uri, read, size - first)
        if content is not None and filesystem.type_name != "s3":
            return content
        # The size was asked before the content: written anew in between, they belong to different objects.
        before, file = file, retrying(uri, opened)
        if content is not None and file.metadata().get("ETag") == before.metadata().get("ETag"):
            return content
    raise StorageError(
        f"{redact(uri)} is written anew faster than it can be read", "let its writer end first"
    )


def read_text(uri: str) -> str:
    """Return a whole UTF-8 file.

    Raises:
        StorageError: it does not exist, cannot be read, or is not UTF-8.
    """
    try:
        return read_bytes(uri).decode()
    except UnicodeDecodeError as error:
        raise StorageError(f"{redact(uri)} is not UTF-8 text (byte {error.start})") from None


def write_bytes(uri: str, content: bytes) -> None:
    """Write a whole file, making its folder; a reader sees the old content or the new, never a part."""
    filesystem, path = open_uri(uri)

    def write() -> None:
        if filesystem.type_name == "local":
            target = Path(path)
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
            try:
                partial.write_bytes(content)
                partial.replace(target)
            except BaseException:
                with suppress(OSError):
                    partial.unlink()
                raise
            return
        with filesystem.open_output_stream(path) as stream:
            stream.write(content)

    retrying(uri, write, len(content))


def require_writable(uri: str) -> None:
    """Refuse a file that cannot be written, before what it is to hold is made; nothing stays of the trial.

    Of stores other than S3 it is known when it is written.

    Raises:
        StorageError: the bucket is missing, a file or folder is in the way, or access is refused.
    """
    filesystem, path = open_uri(uri)

    def begin() -> None:
        target = Path(path)
        if target.is_dir():
            raise IsADirectoryError
        with left_as_it_was(str(target.parent)):
            target.parent.mkdir(parents=True, exist_ok=True)
            tempfile.TemporaryFile(dir=target.parent).close()

    if filesystem.type_name == "local":
        retrying(uri, begin)
    elif uri.startswith("s3://"):
        if "/" not in path:
            raise StorageError(f"{redact(uri)} is a bucket, where there should be a file in one")
        retrying(uri, lambda: begin_upload(uri))


@contextmanager
def left_as_it_was(folder: str) -> Iterator[None]:
    """Remove the folders that were made for a local folder, if nothing is in them."""
    path = Path(folder).expanduser().absolute()
    made = [] if "://" in folder else [one for one in (path, *path.parents) if not one.exists()]
    try:
        yield
    finally:
        for one in made:
            if one.is_dir() and not any(one.iterdir()):
                one.rmdir()


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

    retrying(uri, append)


def copy_tree(source: str, destination: str) -> None:
    """Copy a folder's files, whichever filesystems both are on; a `manifest.json` comes last."""
    from pyarrow import fs

    filesystem, root = open_uri(source)
    selector = fs.FileSelector(root, recursive=True)
    infos = retrying(source, lambda: filesystem.get_file_info(selector))
    files = [info.path[len(root) + 1 :] for info in infos if info.type == fs.FileType.File]
    for name in sorted(files, key=lambda name: (name.endswith("manifest.json"), name)):
        write_bytes(join(destination, name), read_bytes(join(source, name)))


def delete_file(uri: str) -> None:
    """Delete a file; an absent one is no error."""
    filesystem, path = open_uri(uri)
    if exists(uri):
        retrying(uri, lambda: filesystem.delete_file(path))


def delete_empty_folder(uri: str) -> None:
    """Delete a folder, or in a bucket the object that stands for one, if nothing is in it."""
    filesystem, path = open_uri(uri)
    if filesystem.type_name == "local":
        with suppress(OSError):
            Path(path).rmdir()
    elif not names(uri):
        forget_folder(uri)


def delete_tree(uri: str) -> None:
    """Delete a folder and what is in it; an absent one is no error."""
    filesystem, path = open_uri(uri)
    if exists(uri):
        retrying(uri, lambda: filesystem.delete_dir(path))
