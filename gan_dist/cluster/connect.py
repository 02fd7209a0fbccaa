"""Joining a cluster or starting a local one, with room for what is asked of it."""

from __future__ import annotations

import logging
import re
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

import ray
from ray.exceptions import RayError

from gan_dist.cluster.nodes.head_probe import cluster_address, require_reachable
from gan_dist.cluster.nodes.resources import (
    idle_gpus,
    nodes_up,
    require_room,
    short_of_memory,
    this_machine,
    trials_at_once,
)
from gan_dist.config import ScaleConfig, SearchConfig
from gan_dist.core import host
from gan_dist.core.errors import ClusterError
from gan_dist.core.storage.redaction import reason

LOG = logging.getLogger("gan_dist")
"""Warnings of it stand on standard error, above what is shown there."""
Handler = Callable[[int, FrameType | None], object]


@contextmanager
def connect() -> Iterator[None]:
    """Be connected to a cluster.

    It is the one that this process is connected to already, or the one in RAY_ADDRESS, or else a local one
    that is started now and ends with the context.

    Raises:
        ClusterError: there is no cluster at RAY_ADDRESS, or it does not take this process; or none could be
            started.
    """
    if ray.is_initialized():
        yield
        return
    address = cluster_address()
    if address is not None:
        join(address)
    else:
        _start()
    try:
        with interrupts_to(signal.default_int_handler):
            yield
    finally:
        ray.shutdown()


@contextmanager
def interrupts_to(handle: Handler) -> Iterator[None]:
    """Let SIGINT and SIGTERM call a handler: at SIGTERM, Ray would end the process with a dump of its stack.

    SIGINT does so even in what a script starts in the background, which is born ignoring it. Python has
    handlers in the main thread only; elsewhere nothing is changed.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _start() -> None:
    """Start a cluster of this machine alone.

    Raises:
        ClusterError: Ray could not start it.
    """
    try:
        # Ray's own chatter stays in its log files; what a user must know comes from here.
        ray.init(
            address="local",
            num_cpus=host.cores(),
            include_dashboard=False,
            logging_level=logging.ERROR,
            log_to_driver=False,
        )
    except Exception as error:  # Ray has no class of its own for a node that does not come up in time
        ray.shutdown()
        raise ClusterError(
            f"Ray could not be started on this machine ({reason(error).rstrip('.')})",
            "most often it is busy or short of memory: try again, and gan-dist doctor tells how much is free",
        ) from error


def join(address: str) -> None:
    """Connect to the cluster at an address.

    Raises:
        ClusterError: there is none, or it does not take this process.
    """
    require_reachable(address)
    try:
        ray.init(address=address, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, RayError) as error:
        ray.shutdown()
        raise ClusterError(_refusal(address, error)) from error


def _refusal(address: str, error: Exception) -> str:
    """Return what keeps this process out of a cluster, from Ray's error."""
    versions = re.findall(r"Ray: (\S+)\s+Python: (\S+)", str(error))
    if len(versions) == 2:
        theirs, ours = (f"Ray {one} and Python {python}" for one, python in versions)
        return (
            f"the cluster at RAY_ADDRESS={address} has {theirs}, this process {ours}; install the same on "
            "both, or submit a job, which runs with what the cluster has"
        )
    return (
        f"the cluster at RAY_ADDRESS={address} could not be joined ({reason(error)}); look at it with ray "
        "status, or unset RAY_ADDRESS to use this machine alone"
    )


@contextmanager
def cluster(
    scale: ScaleConfig, search: SearchConfig | None = None, *, evaluating: bool = False
) -> Iterator[None]:
    """Be connected to a cluster that has room for a run, as `connect` finds one.

    Args:
        scale: What the run asks for.
        search: Whose trials such runs are, if they are.
        evaluating: Whether it is an evaluation that asks, as `require_room` has it.

    Raises:
        CapacityError: the workers can never be placed.
        ClusterError: as of `connect`.
    """
    if not ray.is_initialized() and cluster_address() is None:
        # Known at once, so that nothing has to be started for it.
        require_room(scale, [this_machine()], "this machine", evaluating=evaluating)
    with connect():
        nodes = nodes_up()
        where = f"the cluster at {ray.get_runtime_context().gcs_address}"
        require_room(scale, nodes, where, evaluating=evaluating)
        trials = trials_at_once(scale, nodes, search.concurrent) if search else None
        for warning in (
            short_of_memory(scale, nodes, trials, evaluating=evaluating),
            idle_gpus(scale, nodes, evaluating=evaluating),
        ):
            if warning:
                LOG.warning("warning: %s", warning)
        yield
