"""What the C allocator does with freed memory."""

from __future__ import annotations

import ctypes

# Parameters of mallopt(3) in the GNU C library.
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
_LARGEST = 2**31 - 1


def keep_freed_memory() -> bool:
    """Let this process keep what it frees for its next allocations.

    By default glibc returns large blocks to the kernel at once, which then clears and maps the same pages for
    the next step's activations: on a CPU some 4 % of a training step (`benchmarks/`).

    Returns:
        Whether the allocator is one that can be told so.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):
        return False
    return bool(mallopt(_M_MMAP_THRESHOLD, _LARGEST) and mallopt(_M_TRIM_THRESHOLD, _LARGEST))
