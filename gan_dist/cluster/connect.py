"""The connection to a cluster, or to a local one that is started, and its capacity for a run."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakSet

import ray
from ray.exceptions import (
    LocalRayletDiedError,
    NodeDiedError,
    RayActorError,
    RayError,
    RaySystemError,
    RpcError,
)

from gan_dist.cluster.local_ray import (
    few_processes,
    has_died,
    keep_handlers,
    kill_local_processes,
    shielded_processes,
)
from gan_dist.cluster.nodes import resources
from gan_dist.cluster.nodes.head_probe import cluster_address, node_resources, require_reachable
from gan_dist.cluster.ray_files import WRITABLE_PLACES, short_folder, token_without_home
from gan_dist.cluster.shadows import require_no_shadows
from gan_dist.config import ScaleConfig, SearchConfig
from gan_dist.config.machine import Machine, this_machine
from gan_dist.core import host
from gan_dist.core.errors import ClusterError
from gan_dist.core.interrupts import interruptible, postponed
from gan_dist.core.storage.redaction import reason
from gan_dist.core.threads import abandon

LOG = logging.getLogger("gan_dist")
QUIET: dict[str, Any] = {"logging_level": logging.ERROR, "log_to_driver": False}
"""Ray's own messages stay in its log files."""
WORKER_ENVIRONMENT = {
    # Ray runs the loop in a thread, and glibc returns the memory of a thread's own arena to the kernel
    # whatever `keep_freed_memory` sets.
    "MALLOC_ARENA_MAX": "1",
}
"""Environment variables of training workers; a local cluster is started with them."""
LOST = (LocalRayletDiedError, NodeDiedError, RayActorError, RaySystemError, RpcError)
"""What Ray raises in a driver whose cluster, or the part of it that the driver needs, has ended."""
callers: WeakSet[threading.Thread] = WeakSet()
"""Threads beside the main one that use the connection while they live."""
_started = threading.Event()


@contextmanager
def connect() -> Iterator[None]:
    """Connect to the cluster in RAY_ADDRESS, or start a local one that ends with the context.

    A process that is connected already stays with its cluster.

    Raises:
        ClusterError: no cluster could be joined or started, or it ended while it was in use; or a file of
            the working directory would stand in for a module of Ray's processes.
    """
    if ray.is_initialized():
        yield
        return
    address = cluster_address()
    require_no_shadows(Path.cwd())
    with interruptible(), ExitStack() as files:
        try:
            if address is not None:
                join(address)
            else:
                files.enter_context(token_without_home())
                _start_local(files.enter_context(short_folder()))
            yield
        except LOST as error:
            where = "this machine's Ray" if address is None else f"the cluster at RAY_ADDRESS={address}"
            what = f"{where} ended, or cannot be reached any more ({reason(error)})"
            raise ClusterError(what, "the same command again goes on once there is one") from error
        finally:
            with postponed():
                _disconnect()


def _disconnect() -> None:
    """Leave the cluster, and end it if `connect` has started it.

    Ray ends a process with exit code 1 in which a thread uses a connection that is closed. While a thread
    uses it, it stays open, and the command then ends without Ray's shutdown.
    """
    _started.clear()
    busy = {thread for thread in callers if thread.is_alive()}
    for thread in busy:
        abandon(thread)
    if has_died():  # Ray's shutdown would end this process with exit code 1
        abandon("Ray")
    elif not busy:
        ray.shutdown()
    kill_local_processes()


def require_alive() -> None:
    """Raise Ray's LocalRayletDiedError if a process of the Ray that `connect` has started has ended.

    Ray itself notices some seconds later, and then ends a process with exit code 1 that uses its objects.
    """
    if has_died():
        raise LocalRayletDiedError


def find_machine() -> Machine:
    """Return the CPUs and GPUs that a run would have: those of the cluster that `connect` joins or starts.

    A cluster that is not joined yet is only asked for its nodes, where its address is known.

    Raises:
        ClusterError: see `connect`.
    """
    address = cluster_address()
    if not ray.is_initialized():
        if address is None:
            return this_machine()
        if reply := require_reachable(address):
            return Machine(tuple(node_resources(reply)))
    with connect():
        return Machine(tuple((node.cpus, node.gpus) for node in resources.cluster_nodes()))


def started_here() -> bool:
    """Return whether `connect` has started the cluster that this process is connected to."""
    return _started.is_set()


def _start_local(folder: str) -> None:
    os.environ.update(WORKER_ENVIRONMENT)
    try:
        with shielded_processes(), few_processes(), keep_handlers():
            ray.init(
                address="local", num_cpus=host.cores(), include_dashboard=False, _temp_dir=folder, **QUIET
            )
        _started.set()
    except OSError as error:
        what = f"Ray could not be started on this machine ({reason(error).rstrip('.')})"
        raise ClusterError(what, WRITABLE_PLACES) from error
    except Exception as error:  # Ray 2.60 has no class of its own for a node that does not start in time
        what = f"Ray could not be started on this machine ({reason(error).rstrip('.')})"
        remedy = "free memory or CPUs, of which gan-dist doctor shows what is left, and try again"
        raise ClusterError(what, remedy) from error


def join(address: str) -> None:
    """Connect to the cluster at an address; raise a ClusterError if there is none or it refuses."""
    require_reachable(address)
    try:
        with keep_handlers():
            ray.init(address=address, **QUIET)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        ray.shutdown()
        raise _refusal(address, error) from error


def _refusal(address: str, error: Exception) -> ClusterError:
    # Ray 2.60 raises a RuntimeError whose text alone has the versions.
    versions = re.findall(r"Ray: (\S+)\s+Python: (\S+)", str(error))
    if len(versions) == 2:
        theirs, ours = (f"Ray {ray_version} and Python {python}" for ray_version, python in versions)
        return ClusterError(
            f"the cluster at RAY_ADDRESS={address} has {theirs}, this process {ours}",
            "install the same on both, or submit a job, which runs with what the cluster has",
        )
    return ClusterError(
        f"the cluster at RAY_ADDRESS={address} could not be joined ({reason(error)})",
        "look at it with ray status, or unset RAY_ADDRESS to use this machine alone",
    )


@contextmanager
def connect_for(
    scale: ScaleConfig, search: SearchConfig | None = None, *, evaluating: bool = False, warn: bool = True
) -> Iterator[None]:
    """Connect to a cluster, as `connect` does, that has the capacity for a run, a search or an evaluation.

    `scale` has the resources of the run or of each trial; for `evaluating` see `require_capacity`. With
    `warn`, memory that may be short and GPUs that stay idle are logged.

    Raises:
        CapacityError: the workers can never be placed.
        ClusterError: see `connect`.
    """
    if not ray.is_initialized() and cluster_address() is None:
        # This needs no Ray, so a refusal comes at once.
        resources.require_capacity(scale, [resources.local_node()], "this machine", evaluating=evaluating)
    with connect():
        nodes = resources.cluster_nodes()
        where = f"the cluster at {ray.get_runtime_context().gcs_address}"
        resources.require_capacity(scale, nodes, where, evaluating=evaluating)
        trials = resources.concurrent_trials(scale, nodes, search.concurrent) if search else None
        memory = resources.memory_warning(scale, nodes, trials, evaluating=evaluating)
        idle = resources.idle_gpu_warning(scale, nodes, evaluating=evaluating)
        for warning in filter(None, (memory, idle)) if warn else ():
            LOG.warning("warning: %s", warning)
        yield
