"""Local files that outlast a kill at any moment, and the loss of power after the call has returned.

A file is written under another name, synchronised with the disk and renamed; then the folder that names it is
synchronised too.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

_NOT_POSSIBLE = (errno.EINVAL, errno.ENOTSUP, errno.EBADF, errno.EACCES, errno.EPERM)
"""Errors of filesystems that cannot synchronise a folder, and of folders that this user may not open."""
NEW_FILE = 0o666
"""Mode of a new file, less the process's umask."""
NULL = (1, 3)
"""Numbers of Linux's /dev/null; other devices of the first number are its memory, zeros and random bytes."""
_HERE, _EXCHANGE = -100, 2
"""AT_FDCWD and RENAME_EXCHANGE of Linux's fcntl.h and fs.h."""


def write_file(path: str, content: bytes) -> None:
    """Write a file and the folders above it; readers see the old content or the new, never a part.

    Links are followed, files keep their mode, and devices and pipes are written to instead of replaced.

    Raises:
        OSError: it cannot be written; the old content is then still there.
    """
    target, status = resolve(path)
    if status is not None and not stat.S_ISREG(status.st_mode):
        target.write_bytes(content)
        return
    make_folders(target.parent)
    partial = target.with_name(f".{target.name}.{uuid.uuid4().hex}.partial")
    try:
        # Nobody who may not read the file reads this one.
        with _opened(partial, os.O_CREAT | os.O_EXCL, NEW_FILE if status is None else 0o600) as file:
            _write_all(file, content)
            if status is not None:
                with suppress(OSError):  # only root can give files away
                    os.fchown(file, status.st_uid, status.st_gid)
                os.fchmod(file, stat.S_IMODE(status.st_mode))
            os.fsync(file)
        partial.replace(target)
    except BaseException:
        with suppress(OSError):
            partial.unlink()
        raise
    sync_folder(target.parent)


def require_file(path: str) -> None:
    """Refuse a device or a pipe where a file is read: it may have no end, or never begin.

    Those of /dev, such as the pipe of a shell's `<(...)`, are meant by whoever names them, but for disks and
    for /dev/zero and its like, which would fill all memory.

    Raises:
        OSError: it is a device or a pipe, or there is nothing.
    """
    status = Path(path).stat()
    mode, device = status.st_mode, (os.major(status.st_rdev), os.minor(status.st_rdev))
    endless = stat.S_ISBLK(mode) or (stat.S_ISCHR(mode) and device[0] == 1 and device != NULL)
    if endless or not (stat.S_ISREG(mode) or stat.S_ISDIR(mode) or path.startswith("/dev/")):
        raise OSError("it is a device or a pipe, where there should be a file")


def append_to_file(path: str, content: bytes, at: int | None = None) -> None:
    """Append to a file, which is created if it is absent, as are the folders above it.

    What the file has from byte `at` on is replaced; after an error nothing is added.
    """
    target = Path(path)
    is_new = not target.exists()
    make_folders(target.parent)
    with _opened(target, os.O_CREAT | os.O_APPEND, NEW_FILE) as file:
        size = os.fstat(file).st_size
        before = size if at is None else min(at, size)
        try:
            os.ftruncate(file, before)
            _write_all(file, content)
            os.fsync(file)
        except OSError:
            with suppress(OSError):
                os.ftruncate(file, before)
            raise
    if is_new:
        sync_folder(target.parent)


def make_folders(folder: Path) -> None:
    """Create a folder and those above it."""
    absent = [one for one in (folder, *folder.parents) if not one.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    for one in reversed(absent):
        sync_folder(one.parent)


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk, where its filesystem can tell."""
    try:
        file = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    except PermissionError:
        return
    try:
        os.fsync(file)
    except OSError as error:
        if error.errno not in _NOT_POSSIBLE:
            raise
    finally:
        os.close(file)


def exchange_folders(one: Path, other: Path) -> bool:
    """Exchange two folders of a filesystem at once; return False, with nothing changed, if it cannot do that.

    Linux can (renameat2), on its own filesystems. A mount point or a working folder of its own is refused.
    """
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    if rename(_HERE, os.fsencode(one), _HERE, os.fsencode(other), _EXCHANGE) != 0:
        return False
    for folder in {one.parent, other.parent}:
        sync_folder(folder)
    return True


def resolve(path: str) -> tuple[Path, os.stat_result | None]:
    """Return a local path, without links unless it is a device or pipe, and the status of what is there."""
    try:
        status = Path(path).stat()
    except FileNotFoundError:
        return Path(os.path.realpath(path)), None
    return Path(os.path.realpath(path) if stat.S_ISREG(status.st_mode) else path), status


@contextmanager
def _opened(path: Path, flags: int, mode: int) -> Iterator[int]:
    file = os.open(path, os.O_WRONLY | flags, mode)
    try:
        yield file
    finally:
        os.close(file)


def _write_all(file: int, content: bytes) -> None:
    left = memoryview(content)
    while left:
        left = left[os.write(file, left) :]
