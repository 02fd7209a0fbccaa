"""This machine, within the limits of its container: versions, cores, memory, network addresses."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
from collections.abc import Iterator, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import getproxies, proxy_bypass

CGROUPS = Path("/sys/fs/cgroup")
OWN_GROUPS = Path("/proc/self/cgroup")
SHM = Path("/dev/shm")
_USER = re.compile(r"//[^/@]*@")
GPU_DRIVERS = ("/proc/driver/nvidia/version", "/dev/nvidiactl", "/dev/dxg", "/dev/kfd")
"""Files of which one exists where there are GPUs: NVIDIA's driver, that of WSL, AMD's."""


def versions() -> dict[str, str]:
    """Return the versions that the processes of a cluster must share."""
    packages = {name: _version(name, "none installed") for name in ("gan-dist", "torch", "ray")}
    return {"python": platform.python_version(), **packages}


def proxy_remedy(url: str) -> str:
    """Return words, after a `; `, about the proxy that the environment sets for a URL; none without one."""
    parts = urlsplit(url)
    proxy = getproxies().get(parts.scheme)
    if proxy is None or parts.hostname is None or proxy_bypass(parts.hostname):
        return ""
    named = f"{parts.scheme.upper()}_PROXY={_USER.sub('//', proxy)}"
    return f"; it is asked through a proxy, {named}: correct that, or set NO_PROXY={parts.hostname}"


def own_version() -> str:
    """Return the version of gan-dist, or `unknown` if it is not installed."""
    return _version("gan-dist", "unknown")


def _version(name: str, default: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:  # a submitted job runs from an uploaded folder
        return default


def processor() -> str:
    """Return the name of this machine's processor."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def cores(root: Path = CGROUPS, own: Path = OWN_GROUPS) -> int:
    """Return the number of cores that this process may use, by its CPU affinity and its control groups.

    A fraction is rounded down, as Ray does, but to one at least.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    limits: list[Sequence[str]] = [text.split() for text in _group_files("cpu", "cpu.max", root, own)]
    quotas = _group_files("cpu", "cpu.cfs_quota_us", root, own)
    limits += zip(quotas, _group_files("cpu", "cpu.cfs_period_us", root, own), strict=True)
    shares = [int(quota) / int(period) for quota, period in limits if quota not in ("max", "-1")]
    return max(1, int(min([allowed, *shares])))


def memory_bytes(root: Path = CGROUPS, own: Path = OWN_GROUPS) -> int:
    """Return the bytes of memory that this process's container or, without one, the machine has."""
    names = ("memory.max", "memory.limit_in_bytes")
    limits = [limit for name in names for limit in _group_files("memory", name, root, own)]
    physical = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return min([physical, *(int(limit) for limit in limits if limit != "max")])


def free_memory_bytes() -> int:
    """Return the bytes of `memory_bytes` that are free, according to the kernel."""
    total = memory_bytes()
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return total
    free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    return min([total, *free])


def _group_files(controller: str, name: str, root: Path, own: Path) -> Iterator[str]:
    """Yield the contents of a file of this process's control group and of the groups above it."""
    for line in own.read_text().splitlines() if own.exists() else []:
        _, controllers, path = line.split(":", 2)
        if controllers and controller not in controllers.split(","):
            continue
        # Version 1 has a tree for each controller, version 2 one for all.
        tree = root / controller if controllers else root
        group = Path(path.lstrip("/"))
        for folder in dict.fromkeys((group, *group.parents, Path())):
            if (file := tree / folder / name).is_file():
                yield file.read_text().strip()


def gpus() -> int:
    """Return the number of GPUs that this process may use, as torch counts them."""
    if not any(Path(driver).exists() for driver in GPU_DRIVERS):
        return 0
    import torch  # two seconds, for which machines without a GPU need not wait

    return int(torch.cuda.device_count())


@cache
def gpu_bytes() -> int | None:
    """Return the memory of this machine's smallest GPU in bytes, or None where nvidia-smi does not say."""
    # Not torch, which takes some of a GPU's memory before it tells this.
    query = ["nvidia-smi", "--query-gpu=memory.total", "--format=csv,noheader,nounits"]
    try:
        shown = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
        return min(int(line) for line in shown.split()) * 2**20
    except (OSError, subprocess.SubprocessError, ValueError):
        return None


def shm_bytes() -> tuple[int, int] | None:
    """Return size and free space of /dev/shm, where Ray keeps objects, or None if there is none."""
    if not SHM.is_dir():
        return None
    found = os.statvfs(SHM)
    return found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize


def object_store_bytes(memory: int, shm_free: int) -> int:
    """Return the default size of a node's object store (Ray 2.60, `resolve_object_store_memory`).

    If it exceeds the free space in /dev/shm, Ray keeps objects in a file on disk.
    """
    return int(min(0.3 * memory, max(10e9, 0.95 * shm_free), 200e9))


def shm_remedy(wanted: float, size: float) -> str:
    """Return the remedy for an object store of `wanted` bytes in a /dev/shm of only `size` bytes."""
    more, fits = f"{wanted * 1.1 / 1e9:.0f}", f"ray start --object-store-memory={int(size * 0.9)}"
    return f"docker run --shm-size={more}g, or mount -o remount,size={more}G /dev/shm, or {fits}"


def own_address() -> str | None:
    """Return the address to which this machine's name resolves, or None."""
    try:
        found = socket.getaddrinfo(socket.gethostname(), None, type=socket.SOCK_STREAM)
    except OSError:
        return None
    return str(found[0][4][0])


def is_local(address: str) -> bool:
    """Return whether an IP address is one of this machine's."""
    try:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        with socket.socket(family) as probe:
            probe.bind((address, 0))
    except OSError:
        return False
    return True


def interfaces() -> dict[str, str]:
    """Return the IPv4 addresses of the network interfaces by name; nothing on other systems than Linux."""
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
                continue  # it has no address
            found[name] = socket.inet_ntoa(answer[20:24])
    return found
