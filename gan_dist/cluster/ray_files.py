"""Where a Ray of this process's own keeps its files: its sockets, and the token that protects it."""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import cache
from pathlib import Path

from ray._common.utils import get_default_ray_temp_dir

from gan_dist.core.errors import ClusterError

SOCKET_BYTES = 107
"""Longest path of a socket on Linux (unix(7))."""
LONGEST_NAME = "/session_2026-11-30_23-58-04_859305_4194304/sockets/plasma_store"
"""Of Ray 2.60's sockets, in its folder."""
TOKEN_VARIABLES = ("RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH")
WRITABLE_PLACES = (
    "Ray keeps its files in RAY_TMPDIR, or else TMPDIR or /tmp: set it to a folder with space where "
    "this user may write"
)


@contextmanager
def short_folder() -> Iterator[str]:
    """Yield the folder of Ray's files, by a path that is short enough for the sockets in it.

    It is Ray's own choice. Where that is too long, it is a link to it, which is removed at the end.

    Raises:
        ClusterError: it cannot be written, or there is no place for the link.
    """
    folder = get_default_ray_temp_dir()
    if len(os.fsencode(folder + LONGEST_NAME)) <= SOCKET_BYTES:
        yield folder
        return
    try:
        Path(folder).mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ClusterError(f"{folder} cannot be written ({error.strerror})", WRITABLE_PLACES) from None
    for place in filter(None, ("/tmp", "/var/tmp", os.environ.get("XDG_RUNTIME_DIR"))):
        with suppress(OSError):
            beside = tempfile.TemporaryDirectory(prefix="gan-dist-", dir=place, ignore_cleanup_errors=True)
            break
    else:
        longest = SOCKET_BYTES - len(LONGEST_NAME) - len("/ray")
        raise ClusterError(
            f"{folder} is too long for Ray's sockets, and no link to it can be made in /tmp or /var/tmp",
            f"set RAY_TMPDIR to a folder whose path has {longest} bytes or less",
        )
    with beside:
        link = Path(beside.name, "ray")
        link.symlink_to(folder)
        yield str(link)


@contextmanager
def token_without_home() -> Iterator[None]:
    """Give Ray a token by its variable where it could not keep one in the home directory."""
    protected = os.environ.get("RAY_AUTH_MODE", "token").lower() == "token"
    if not protected or any(os.environ.get(name) for name in TOKEN_VARIABLES) or _home_is_usable():
        yield
        return
    os.environ["RAY_AUTH_TOKEN"] = _own_token()
    try:
        yield
    finally:
        os.environ.pop("RAY_AUTH_TOKEN", None)


@cache
def _own_token() -> str:
    """Return this process's token, which Ray remembers from its first start to the next."""
    return secrets.token_hex(32)


def _home_is_usable() -> bool:
    """Return whether Ray's file with the token can be read, or written where there is none."""
    if not (home := os.environ.get("HOME")):
        return False
    file = Path(home, ".ray", "auth_token")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        if file.exists():
            return bool(file.read_bytes().strip()) or os.access(file, os.W_OK)
        tempfile.TemporaryFile(dir=file.parent).close()
    except OSError:
        return False
    return True
