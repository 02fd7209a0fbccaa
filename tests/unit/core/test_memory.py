"""Freed memory stays with the process."""

from __future__ import annotations

import ctypes
import subprocess
import sys

import pytest

CODE = """
import resource, sys
import numpy as np
from gan_dist.core.memory import keep_freed_memory
if sys.argv[1] == "keep":
    if not keep_freed_memory():
        sys.exit("the allocator refuses")
for number in range(6):
    if number == 2:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    # Below the size at which numpy asks the kernel for huge pages.
    parts = [np.ones(3_000_000, dtype=np.uint8) for _ in range(12)]
    del parts
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "gnu_get_libc_version"), reason="glibc's allocator")
def test_the_same_pages_serve_again() -> None:
    faults = {
        what: int(subprocess.run([sys.executable, "-c", CODE, what], capture_output=True, check=True).stdout)
        for what in ("keep", "default")
    }
    assert faults["keep"] < faults["default"] / 20
