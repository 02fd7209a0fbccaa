"""Checks without Ray: this machine, and what one configuration needs. Each yields its findings."""

from __future__ import annotations

import ipaddress
import os
import platform
import socket
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from email.utils import parsedate_to_datetime
from importlib.metadata import PackageNotFoundError, metadata, version
from pathlib import Path
from urllib.parse import urlsplit

import torch
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet

from gan_dist.config import EvalConfig, RunConfig
from gan_dist.core import host, storage
from gan_dist.core.errors import GanDistError, Problem, StorageError
from gan_dist.core.findings import Finding, findings_of, wrong_interface
from gan_dist.core.storage.aws_settings import store_url
from gan_dist.core.storage.redaction import reason
from gan_dist.data.batches.loader import open_images
from gan_dist.data.shards.manifest import Manifest
from gan_dist.evaluation.extractors import load_extractor
from gan_dist.evaluation.scores import require_possible
from gan_dist.training.preflight import image_shape, require_same_run, summarise

PROJECT = "gan-dist"
INSTALL = "install what requirements.lock lists: make install"
ENOUGH_MEMORY_GB = 4.0
"""Memory of two workers, their controller and Ray itself before anything is trained, and some room."""
SKEW_REFUSED_S = 15 * 60
"""S3 refuses a request that is so much older or newer than its clock says (`RequestTimeTooSkewed`)."""
SKEW_WARNED_S = 60
CLOCK = "timedatectl set-ntp true, or start chronyd: let this machine's clock follow a time server"


def packages() -> Iterator[Finding]:
    """Versions of Python and of every dependency of `gan-dist[train]`."""
    wrong = []
    try:
        package = metadata(PROJECT)
    except PackageNotFoundError:
        why = "what it asks for cannot be compared with what there is"
        yield Finding("packages", "warning", f"{PROJECT} is not installed, only on the path", why, INSTALL)
        return
    if platform.python_version() not in SpecifierSet(package["Requires-Python"] or ""):
        wrong.append(f"Python {platform.python_version()} is not {package['Requires-Python']}")
    for requirement in map(Requirement, package.get_all("Requires-Dist") or []):
        if requirement.marker and not requirement.marker.evaluate({"extra": "train"}):
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
    """GPUs and their driver; `wanted` is the number that a worker here needs."""
    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
        what = f"{len(names)} x {', '.join(sorted(set(names)))}; CUDA {torch.version.cuda}, NCCL {nccl}"
        yield Finding("gpus", "ok", what)
    elif Path("/proc/driver/nvidia/version").exists():
        what = f"a driver is loaded but torch {torch.__version__} sees no GPU: {_cuda_problem()}"
        why = "training is on the CPU, many times slower"
        remedy = (
            "install a torch for the driver's CUDA version, or a newer driver; look at nvidia-smi and at "
            "CUDA_VISIBLE_DEVICES"
        )
        yield Finding("gpus", "error" if wanted else "warning", what, why, remedy)
    elif wanted:
        what = "no NVIDIA driver is loaded, and the configuration asks for GPUs"
        remedy = "scale.gpus_per_worker=0, or set RAY_ADDRESS to a cluster with GPUs"
        yield Finding("gpus", "error", what, "no worker can ever be placed here", remedy)
    else:
        yield Finding("gpus", "ok", "none: training is on the CPU")


def _cuda_problem() -> str:
    if torch.version.cuda is None:
        return "it is built without CUDA"
    try:
        torch.cuda.init()
    except Exception as error:  # of several kinds, by what is missing
        return str(error).splitlines()[0]
    return "no device is visible"


def cores() -> Iterator[Finding]:
    """Cores of this machine that this process can use."""
    usable, present = host.cores(), os.cpu_count() or 1
    limited = "" if usable == present else f" of {present}: a container or affinity limits them"
    yield Finding("cores", "ok", f"{usable}{limited}")


def memory() -> Iterator[Finding]:
    """Memory within the container's limits."""
    total, free = host.memory_bytes() / 1e9, host.free_memory_bytes() / 1e9
    what = f"{total:.1f} GB, {free:.1f} GB of it free"
    if free >= ENOUGH_MEMORY_GB:
        yield Finding("memory", "ok", what)
        return
    why = "Ray ends workers when a node's memory is 95 % full, and each takes 0.7 GB before its networks"
    remedy = "end other programs, raise the container's limit, or use scale.workers=1"
    yield Finding("memory", "warning", what, why, remedy)


def shm() -> Iterator[Finding]:
    """Shared memory for Ray's object store."""
    shm_bytes = host.shm_bytes()
    if shm_bytes is None:
        yield Finding("shm", "ok", "there is no /dev/shm on this system; Ray keeps objects elsewhere")
        return
    size, free = shm_bytes
    wanted = host.object_store_bytes(host.free_memory_bytes(), free)
    takes = f"Ray's object store takes {wanted / 1e9:.1f} GB"
    if free >= wanted:
        yield Finding("shm", "ok", f"{free / 1e9:.1f} GB free, {takes}")
        return
    what = f"/dev/shm has {free / 1e9:.2f} GB free of {size / 1e9:.2f} GB, {takes}"
    why = "Ray then keeps objects in a file on disk, and streaming images waits for it"
    yield Finding("shm", "warning", what, why, host.shm_remedy(wanted, free))


def threads(workers: int, cpus_per_worker: float) -> Iterator[Finding]:
    """Threads of the workers on this machine's cores."""
    given = os.environ.get("OMP_NUM_THREADS")
    usable = host.cores()
    if given is not None and (not given.isdigit() or int(given) > usable):
        what = f"OMP_NUM_THREADS={given} on {usable} cores"
        why = "every process starts so many threads, which then wait for each other"
        remedy = "unset OMP_NUM_THREADS: a worker's threads follow scale.cpus_per_worker"
        yield Finding("threads", "warning", what, why, remedy)
    elif cpus_per_worker < 1 and workers > usable:
        what = f"{workers} workers of {cpus_per_worker:g} CPUs are {workers} threads on {usable} cores"
        why = "a worker computes in one thread at least, and all wait for the slowest"
        yield Finding("threads", "warning", what, why, f"scale.workers={usable} scale.cpus_per_worker=1")
    else:
        each = max(1, int(cpus_per_worker))
        yield Finding("threads", "ok", f"{each} a worker, as scale.cpus_per_worker says")


def host_name() -> Iterator[Finding]:
    """Address at which workers on CPUs (gloo) meet: that of this host's name, or of an interface."""
    name, address = socket.gethostname(), host.own_address()
    given = os.environ.get("GLOO_SOCKET_IFNAME")
    if given is not None:
        wrong = [*wrong_interface("name", "", given, [known for _, known in socket.if_nameindex()])]
        yield from wrong or [Finding("name", "ok", f"workers meet at interface {given} (GLOO_SOCKET_IFNAME)")]
    elif address is None or not host.is_local(address):
        what = f"{name} resolves to {f'{address} of another machine' if address else 'no address'}"
        why = "workers on CPUs (gloo) that are all on this host tell each other this address"
        remedy = f"add {name} with this machine's address to /etc/hosts, or export GLOO_SOCKET_IFNAME=lo"
        yield Finding("name", "warning", what, why, remedy)
    else:
        other = "; workers on several hosts meet at the interfaces of their nodes' addresses"
        yield Finding(
            "name", "ok", f"{name} resolves to {address}{other * ipaddress.ip_address(address).is_loopback}"
        )


def storage_access(folder: str) -> Iterator[Finding]:
    """Write, read, list and delete a small file in the folder of runs; nothing is left behind."""
    name = f".doctor-{uuid.uuid4().hex}"
    marker = storage.join(folder, name)
    doing = "looked for"

    def require(condition: bool, otherwise: str) -> None:
        if not condition:
            raise StorageError(otherwise, "use another storage.path", keys=("storage.path",))

    with storage.remove_created_folders(folder):
        try:
            empty = not storage.exists(folder)
            doing = "written"
            storage.write_bytes(marker, name.encode())
            doing = "read"
            require(storage.read_bytes(marker) == name.encode(), "what was written is not what is read")
            doing = "listed"
            require(name in storage.list_names(folder), "what was written is not in the listing")
            doing = "deleted"
            storage.delete_file(marker)
            require(not storage.exists(marker), "what was deleted is still there")
            if empty:
                storage.delete_empty_folder(folder)
        except GanDistError as error:
            what, remedy = error.problems[0].what, error.problems[0].remedy
            if doing == "written" and "://" not in folder:  # the marker's name means nothing to a user
                what, remedy = what.replace(marker, folder), "give another storage=..."
            left = _delete(marker) if doing not in ("looked for", "written") else ""
            problem = Problem(f"{what} (a file could not be {doing}{left})", remedy)
            yield from findings_of("storage", [problem], "checkpoints, records and releases are kept there")
            return
    yield Finding("storage", "ok", f"{storage.redact(folder)} can be written, read, listed and deleted from")


def _delete(marker: str) -> str:
    """Delete the marker after a failure; return words about it if that fails too."""
    try:
        storage.delete_file(marker)
    except GanDistError:
        return f"; {storage.redact(marker)} stays behind"
    return ""


def clock(storage_path: str, data_path: str, wait_s: float) -> Iterator[Finding]:
    """Difference between this machine's clock and the object store's, by the date of an answer."""
    uri = storage_path if storage_path.startswith("s3://") else data_path
    if not uri.startswith("s3://"):
        yield Finding("clock", "ok", "no object store whose clock matters")
        return
    before = time.time()
    try:
        url = store_url(uri)
        date = _date(url, wait_s)
    except (OSError, StorageError) as error:
        what = f"the store of {storage.redact(uri)} did not tell the time: {reason(error)}"
        remedy = "check the endpoint: AWS_ENDPOINT_URL, AWS_PROFILE, or endpoint_override in the URI"
        yield Finding("clock", "warning", what, "S3 refuses requests that are 15 minutes off", remedy)
        return
    skew, store = (before + time.time()) / 2 - date, urlsplit(url).netloc.rpartition("@")[2]
    off = f"this machine's clock is {abs(skew):.0f} s {'ahead of' if skew > 0 else 'behind'} {store}"
    if abs(skew) >= SKEW_REFUSED_S:
        why = "the store refuses every request that is 900 s off (RequestTimeTooSkewed)"
        yield Finding("clock", "error", off, why, CLOCK)
    elif abs(skew) >= SKEW_WARNED_S:
        yield Finding("clock", "warning", off, "at 900 s the store refuses every request", CLOCK)
    else:
        yield Finding("clock", "ok", f"within {max(1, round(abs(skew)))} s of {store}")


def _date(url: str, wait_s: float) -> float:
    """Return a server's time, from its answer's header; a refusal has that header as well."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=wait_s) as answer:
            date = answer.headers.get("Date")
    except urllib.error.HTTPError as error:
        date = error.headers.get("Date")
    if date is None:
        raise OSError("its answer has no date")
    return parsedate_to_datetime(date).timestamp()


def preflight(config: RunConfig, manifest: Manifest | None = None) -> Iterator[Finding]:
    """All that `gan-dist train` checks before it starts: images, extractor, networks, an earlier run.

    `manifest` has the sizes of a set that is not packed yet.
    """
    try:
        manifest = manifest or open_images(config.data.path).manifest
        shape = image_shape(config.data, config.model, manifest)
        stored = f"{manifest.count} images of {manifest.size}x{manifest.channels}"
        data = [Finding("data", "ok", f"{stored}, read at {shape.size}")]
    except GanDistError as error:
        data = [*findings_of("data", error.problems, "there is nothing to train on")]
    found = [*data, *_extractor(config.eval)]
    yield from found
    if any(one.level == "error" for one in found):
        return
    try:
        sizes = summarise(config, manifest)
        if config.search is None:
            require_same_run(config, config.run_uri)
    except GanDistError as error:
        yield from findings_of("run", error.problems, "gan-dist refuses to begin it")
        return
    if taken := sizes.init.words:
        yield Finding("init", "ok", "; ".join(f"{subject}: {words}" for subject, words in taken.items()))
    networks = f"{sizes.generator_parameters} and {sizes.discriminator_parameters} parameters"
    length = f"{sizes.images} images, {sizes.epochs:.1f} epochs"
    yield Finding("run", "ok", f"networks of {networks}; {length}")


def _extractor(settings: EvalConfig) -> Iterator[Finding]:
    weights = settings.inception_weights
    try:
        found = load_extractor(settings.extractor, torch.device("cpu"), inception_weights=weights)
        require_possible(found, settings.metrics, settings.samples)
    except GanDistError as error:
        yield from findings_of("extractor", error.problems, "no evaluation is possible without it")
        return
    yield Finding("extractor", "ok", f"{found.name}, for {found.metric}, hash {found.hash[:12]}")
