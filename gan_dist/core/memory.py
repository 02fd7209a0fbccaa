"""What the C allocator does with freed memory, and what is said where a GPU has none left."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from gan_dist.core.errors import CapacityError

# Parameters of mallopt(3) in the GNU C library.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for its next allocations.

    By default glibc returns large blocks to the kernel at once, which then clears and maps the same pages for
    the next step's activations: on a CPU some 4 % of a training step (`benchmarks/`).

    Returns:
        Whether the allocator is one that can be told so.
    """
    return _set(_M_MMAP_THRESHOLD, _LARGEST) and _set(_M_TRIM_THRESHOLD, _LARGEST)


def use_one_arena() -> bool:
    """Let threads that this process starts from now on share one pool of memory.

    glibc returns the memory of a thread's own arena to the kernel whatever `keep_freed_memory` says.

    Returns:
        Whether the allocator is one that can be told so.
    """
    return _set(_M_ARENA_MAX, 1)


@contextmanager
def shortage_explained(remedies: Callable[[], str]) -> Iterator[None]:
    """Tell what lessens the memory of what is done, where a GPU runs out of it.

    Args:
        remedies: What does not fit, and what to lower; asked only where it is needed.

    Raises:
        CapacityError: it does.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        raise CapacityError(f"{remedies()}. torch says: {error}") from None


def _set(parameter: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL(None).mallopt(parameter, value))
    except (AttributeError, OSError, TypeError):
        return False
