"""Checks of this machine: packages, GPUs, cores, memory, shared memory, threads, its name."""

from __future__ import annotations

import ipaddress
import os
import platform
import socket
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from gan_dist.core import host
from gan_dist.core.findings import Finding, wrong_interface

PROJECT = "gan-dist"
INSTALL = "install what requirements.lock lists: make setup"
ENOUGH_GB = 4.0
"""Memory of two workers, their controller and Ray itself before anything is trained, and some room."""


def packages() -> Iterator[Finding]:
    """Python and every dependency against what the project asks for."""
    wrong = []
    try:
        told = metadata(PROJECT)
    except PackageNotFoundError:
        why = "what it asks for cannot be compared with what there is"
        yield Finding("packages", "warning", f"{PROJECT} is not installed, only on the path", why, INSTALL)
        return
    if platform.python_version() not in SpecifierSet(told["Requires-Python"] or ""):
        wrong.append(f"Python {platform.python_version()} is not {told['Requires-Python']}")
    for requirement in map(Requirement, told.get_all("Requires-Dist") or []):
        if requirement.marker and not requirement.marker.evaluate():
            continue
        try:
            found = version(requirement.name)
        except PackageNotFoundError:
            wrong.append(f"{requirement.name} is not installed")
            continue
        if not requirement.specifier.contains(found, prereleases=True):
            wrong.append(f"{requirement.name} {found} is not {requirement.specifier}")
    if wrong:
        yield Finding("packages", "error", "; ".join(wrong), "other versions are not tested", INSTALL)
        return
    yield Finding("packages", "ok", ", ".join(f"{name} {one}" for name, one in host.versions().items()))


def gpus(wanted: float) -> Iterator[Finding]:
    """Devices, driver and runtime; `wanted` GPUs are asked for on this machine."""
    driver = Path("/proc/driver/nvidia/version")
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
        what = f"{len(names)} x {', '.join(sorted(set(names)))}; CUDA {torch.version.cuda}, NCCL {nccl}"
        yield Finding("gpus", "ok", what)
    elif not driver.exists():
        if wanted:
            yield Finding(
                "gpus",
                "error",
                "no NVIDIA driver is loaded, and the configuration asks for GPUs",
                "no worker can ever be placed here",
                "scale.gpus_per_worker=0, or set RAY_ADDRESS to a cluster with GPUs",
            )
        else:
            yield Finding("gpus", "ok", "none: training is on the CPU")
    else:
        yield Finding(
            "gpus",
            "error" if wanted else "warning",
            f"a driver is loaded but torch {torch.__version__} sees no GPU: {_cuda_says()}",
            "training is on the CPU, many times slower",
            "install a torch for the driver's CUDA version, or a newer driver; look at nvidia-smi and at "
            "CUDA_VISIBLE_DEVICES",
        )


def _cuda_says() -> str:
    if torch.version.cuda is None:
        return "it is built without CUDA"
    try:
        torch.cuda.init()
    except Exception as error:  # of several kinds, by what is missing
        return str(error).splitlines()[0]
    return "no device is visible"


def cores() -> Iterator[Finding]:
    """What this process may use of what the machine has."""
    usable, all_of_them = host.cores(), os.cpu_count() or 1
    limited = "" if usable == all_of_them else f" of {all_of_them}: a container or affinity limits them"
    yield Finding("cores", "ok", f"{usable}{limited}")


def memory() -> Iterator[Finding]:
    """Memory within the container's limits."""
    total, free = host.memory_bytes() / 1e9, host.free_memory_bytes() / 1e9
    what = f"{total:.1f} GB, {free:.1f} GB of it free"
    if free >= ENOUGH_GB:
        yield Finding("memory", "ok", what)
        return
    yield Finding(
        "memory",
        "warning",
        what,
        "Ray ends workers when a node's memory is 95 % full, and each takes 0.7 GB before its networks",
        "end other programs, raise the container's limit, or use scale.workers=1",
    )


def shm() -> Iterator[Finding]:
    """Whether Ray's object store has room in shared memory."""
    found = host.shm_bytes()
    if found is None:
        yield Finding("shm", "ok", "there is no /dev/shm on this system; Ray keeps objects elsewhere")
        return
    size, free = found
    wanted = host.object_store_bytes(host.free_memory_bytes(), free)
    if free >= wanted:
        yield Finding(
            "shm", "ok", f"{free / 1e9:.1f} GB free, Ray's object store takes {wanted / 1e9:.1f} GB"
        )
    else:
        yield small_shm(free, wanted, size)


def small_shm(free: float, wanted: float, size: float) -> Finding:
    """Return the finding that an object store is going to be on disk instead of in shared memory.

    Args:
        free: Bytes of /dev/shm that nobody uses.
        wanted: Bytes that the object store takes.
        size: Bytes of /dev/shm.
    """
    return Finding(
        "shm",
        "warning",
        f"/dev/shm has {free / 1e9:.2f} GB free of {size / 1e9:.2f} GB, Ray's object store takes "
        f"{wanted / 1e9:.1f} GB",
        "Ray then keeps objects in a file on disk, and streaming images waits for it",
        host.more_shm(wanted, free),
    )


def threads(workers: int, cpus_per_worker: float) -> Iterator[Finding]:
    """Threads of workers and libraries against cores."""
    given = os.environ.get("OMP_NUM_THREADS")
    usable = host.cores()
    if given is not None and (not given.isdigit() or int(given) > usable):
        yield Finding(
            "threads",
            "warning",
            f"OMP_NUM_THREADS={given} on {usable} cores",
            "every process starts so many threads, which then wait for each other",
            "unset OMP_NUM_THREADS: a worker's threads follow scale.cpus_per_worker",
        )
    elif cpus_per_worker < 1 and workers > usable:
        yield Finding(
            "threads",
            "warning",
            f"{workers} workers of {cpus_per_worker:g} CPUs are {workers} threads on {usable} cores",
            "a worker computes in one thread at least, and all wait for the slowest",
            f"scale.workers={usable} scale.cpus_per_worker=1",
        )
    else:
        each = max(1, int(cpus_per_worker))
        yield Finding("threads", "ok", f"{each} a worker, as scale.cpus_per_worker says")


def name() -> Iterator[Finding]:
    """Where workers on CPUs (gloo) meet: at the address of this host's name, or at an interface."""
    name, address = socket.gethostname(), host.own_address()
    given = os.environ.get("GLOO_SOCKET_IFNAME")
    if given is not None:
        wrong = [*wrong_interface("name", "", given, [known for _, known in socket.if_nameindex()])]
        yield from wrong or [Finding("name", "ok", f"workers meet at interface {given} (GLOO_SOCKET_IFNAME)")]
    elif address is None or not host.is_local(address):
        yield Finding(
            "name",
            "warning",
            f"{name} resolves to {address or 'no address'}{' of another machine' * (address is not None)}",
            "workers on CPUs (gloo) that are all on this host tell each other this address",
            f"add {name} with this machine's address to /etc/hosts, or export GLOO_SOCKET_IFNAME=lo",
        )
    else:
        other = "; workers on several hosts meet at the interfaces of their nodes' addresses"
        yield Finding(
            "name", "ok", f"{name} resolves to {address}{other * ipaddress.ip_address(address).is_loopback}"
        )
