"""Memory of a process: the C allocator's settings, the peak, and the error for a GPU without memory left."""

from __future__ import annotations

import ctypes
import resource
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gan_dist.core.errors import DeviceMemoryError, Problem

if TYPE_CHECKING:
    import torch

# Parameters of mallopt(3) in the GNU C library.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD, _M_ARENA_MAX = -1, -3, -8
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Keep freed memory in this process for its next allocations; return whether the allocator supports it.

    By default glibc returns large blocks to the kernel at once, which then clears and maps the same pages for
    the next step's activations: on a CPU some 4 % of a training step (`benchmarks/`).
    """
    return _set(_M_MMAP_THRESHOLD, _LARGEST) and _set(_M_TRIM_THRESHOLD, _LARGEST)


def use_one_arena() -> bool:
    """Let new threads allocate from one arena; return whether the allocator supports it.

    glibc returns the memory of a thread's own arena to the kernel in spite of `keep_freed_memory`.
    """
    return _set(_M_ARENA_MAX, 1)


def peak_memory_gib(device: torch.device) -> float:
    """Return the most memory that this process has used so far, in GiB.

    On a GPU it is what tensors occupied (`torch.cuda.max_memory_allocated`), on a CPU the process's resident
    memory.
    """
    if device.type == "cuda":
        import torch

        return torch.cuda.max_memory_allocated(device) / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if sys.platform == "darwin" else 2**20)  # bytes there, KiB elsewhere


@contextmanager
def explain_out_of_memory(problem: Callable[[], Problem]) -> Iterator[None]:
    """Turn torch's out-of-memory error into a DeviceMemoryError.

    `problem` is called after it, and returns what the GPU cannot hold and the settings to lower.
    """
    import torch

    try:
        yield
    except torch.OutOfMemoryError as error:
        found = problem()
        raise DeviceMemoryError(
            f"{found.what} (torch says: {error})", found.remedy, keys=found.keys
        ) from None


def _set(parameter: int, value: int) -> bool:
    try:
        return bool(ctypes.CDLL(None).mallopt(parameter, value))
    except (AttributeError, OSError, TypeError):
        return False
