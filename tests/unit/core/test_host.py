"""What a process may use of its machine, as its control groups limit it."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from gan_dist.core import host


def group(root: Path, path: str, **files: str) -> None:
    folder = root / path
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        (folder / name.replace("__", ".")).write_text(f"{text}\n")


@pytest.fixture
def own(tmp_path: Path) -> Path:
    (tmp_path / "own").write_text("3:cpu,cpuacct:/a/b\n2:memory:/a/b\n0::/x/y\n")
    return tmp_path / "own"


def test_cores_are_the_least_that_a_group_or_one_above_it_allows(tmp_path: Path, own: Path) -> None:
    root = tmp_path / "two"
    group(root, "x/y", cpu__max="max 100000")
    assert host.cores(root, own) == len(os.sched_getaffinity(0))
    group(root, "x", cpu__max="150000 100000")
    assert host.cores(root, own) == 1
    group(tmp_path / "one", "cpu/a/b", cpu__cfs_quota_us="-1", cpu__cfs_period_us="100000")
    assert host.cores(tmp_path / "one", own) == len(os.sched_getaffinity(0))
    group(tmp_path / "one", "cpu", cpu__cfs_quota_us="20000", cpu__cfs_period_us="100000")
    assert host.cores(tmp_path / "one", own) == 1


def test_memory_is_the_least_that_a_group_or_one_above_it_allows(tmp_path: Path, own: Path) -> None:
    physical = host.memory_bytes(tmp_path / "none", own)
    assert physical == os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    group(tmp_path, "x/y", memory__max="max")
    group(tmp_path, "x", memory__max="1000000")
    assert host.memory_bytes(tmp_path, own) == 1_000_000
    group(tmp_path, "memory/a", memory__limit_in_bytes="900000")
    group(tmp_path, "memory", memory__limit_in_bytes="9223372036854771712")
    assert host.memory_bytes(tmp_path, own) == 900_000


def test_a_process_that_is_kept_to_one_core_counts_one() -> None:
    code = "import os; os.sched_setaffinity(0, {min(os.sched_getaffinity(0))}); "
    code += "from gan_dist.core import host; print(host.cores())"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "1\n"


def test_an_address_is_local_where_it_can_be_listened_at() -> None:
    assert host.is_local("127.0.0.1")
    assert not host.is_local("203.0.113.1")
    assert host.interfaces()["lo"] == "127.0.0.1"
    assert host.interfaces().keys() <= {name for _, name in socket.if_nameindex()}


def test_the_object_store_has_what_ray_gives_it() -> None:
    assert host.object_store_bytes(10 * 10**9, 8 * 10**9) == 3 * 10**9
    # On large machines it is held to what shared memory has, but never below 10 GB.
    assert host.object_store_bytes(100 * 10**9, 20 * 10**9) == 19 * 10**9
    assert host.object_store_bytes(100 * 10**9, 64 * 10**6) == 10 * 10**9
