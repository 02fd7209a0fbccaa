"""What this machine has, within the limits of its container: versions, cores, memory, its own name."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

GAN_DIST = "gan-dist"
PACKAGES = (GAN_DIST, "torch", "ray")
CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
SHM = Path("/dev/shm")


def versions() -> dict[str, str]:
    """Return the versions that the processes of a cluster must share."""
    return {"python": platform.python_version(), **{name: _version(name) for name in PACKAGES}}


def own_version() -> str:
    """Return gan-dist's version, for what it writes; `unknown` where it is not installed."""
    try:
        return version(GAN_DIST)
    except PackageNotFoundError:  # a submitted job runs from an uploaded folder
        return "unknown"


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a job's working directory need not be installed
        return "none installed"


def cores(root: Path = CGROUPS, own: Path = OWN_GROUPS) -> int:
    """Return the cores that this process may use: those that it may run on, and its control groups' share.

    A share is cut down to whole cores, as Ray does, and is at least one.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    shares = [float(allowed)]
    for text in _texts("cpu", "cpu.max", root, own):
        quota, period = text.split()
        if quota != "max":
            shares.append(int(quota) / int(period))
    quotas = _texts("cpu", "cpu.cfs_quota_us", root, own)
    periods = _texts("cpu", "cpu.cfs_period_us", root, own)
    shares += [
        int(quota) / int(period) for quota, period in zip(quotas, periods, strict=True) if int(quota) > 0
    ]
    return max(1, int(min(shares)))


def memory_bytes(root: Path = CGROUPS, own: Path = OWN_GROUPS) -> int:
    """Return the bytes of memory that this process and its siblings may use in all."""
    limits = [
        *_texts("memory", "memory.max", root, own),
        *_texts("memory", "memory.limit_in_bytes", root, own),
    ]
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *(int(limit) for limit in limits if limit != "max")])


def free_memory_bytes() -> int:
    """Return how many of these nobody uses now, as far as the kernel tells."""
    total = memory_bytes()
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return total
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min([total, *free])


def _texts(controller: str, name: str, root: Path, own: Path) -> list[str]:
    """Return the contents of a file of this process's control group and of those above it."""
    return [file.read_text().strip() for file in _files(controller, name, root, own)]


def _files(controller: str, name: str, root: Path, own: Path) -> Iterator[Path]:
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # Version 1 has a tree for each controller, version 2 one for all.
        tree = root / controller if controllers else root
        group = Path(path.lstrip("/"))
        for folder in dict.fromkeys((group, *group.parents, Path())):
            if (file := tree / folder / name).is_file():
                yield file


def shm_bytes() -> tuple[int, int] | None:
    """Return size and free space of /dev/shm, where Ray keeps objects; None where there is none."""
    if not SHM.is_dir():
        return None
    found = os.statvfs(SHM)
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize


def object_store_bytes(memory: int, shm_free: int) -> int:
    """Return the size that Ray gives a node's object store by itself (2.60, `resolve_object_store_memory`).

    Where it is more than is free in /dev/shm, Ray keeps objects in a file on disk.
    """
    return int(min(0.3 * memory, max(10e9, 0.95 * shm_free), 200e9))


def more_shm(wanted: float, size: float) -> str:
    """Return what gives an object store room in shared memory, as a remedy.

    Args:
        wanted: Bytes of the object store.
        size: Bytes that /dev/shm has for it now.
    """
    more = f"{wanted * 1.1 / 1e9:.0f}"
    return (
        f"docker run --shm-size={more}g, or mount -o remount,size={more}G /dev/shm, or "
        f"ray start --object-store-memory={int(size * 0.9)}"
    )


def own_address() -> str | None:
    """Return the address that this machine's name resolves to, or None where it resolves to none."""
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError:
        return None
    return str(found[0][4][0])


def is_local(address: str) -> bool:
    """Tell whether an IP address is one of this machine's."""
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def interfaces() -> dict[str, str]:
    """Return the IPv4 address of every network interface that has one, by its name; of Linux only."""
    try:
        import fcntl
    except ImportError:
        return {}
    found = {}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        for _, name in socket.if_nameindex():
            try:
                # SIOCGIFADDR of netdevice(7): the address is in bytes 20 to 24 of the answer.
                answer = fcntl.ioctl(asking.fileno(), 0x8915, name.encode().ljust(40, b"\0"))
            except OSError:
                continue  # it has none
            found[name] = socket.inet_ntoa(answer[20:24])
    return found
