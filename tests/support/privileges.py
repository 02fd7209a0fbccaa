"""Permissions that hold for root, too, as whom tests may run."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager

# capabilities(7), capget(2): CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, version 3 of the structures.
_FILES = 1 << 1 | 1 << 2
_VERSION = 0x20080522


class _Header(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _Data(ctypes.Structure):
    _fields_ = (
        ("effective", ctypes.c_uint32),
        ("permitted", ctypes.c_uint32),
        ("inherited", ctypes.c_uint32),
    )


@contextmanager
def permissions() -> Iterator[None]:
    """Let files' permissions hold for this thread, and those that it starts, whoever its user is."""
    libc = ctypes.CDLL(None, use_errno=True)
    header, before, during = _Header(_VERSION, 0), (_Data * 2)(), (_Data * 2)()
    for capabilities in (before, during):
        _require(libc.capget(ctypes.byref(header), capabilities))
    during[0].effective &= ~_FILES
    _require(libc.capset(ctypes.byref(header), during))
    try:
        yield
    finally:
        _require(libc.capset(ctypes.byref(header), before))


def _require(result: int) -> None:
    if result:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
