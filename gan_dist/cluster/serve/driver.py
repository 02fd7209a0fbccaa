"""A release served by Ray Serve, from its start to its end, in which every request is answered."""

from __future__ import annotations

import logging
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from threading import Event

from ray import serve
from ray.exceptions import RayError
from ray.serve.config import HTTPOptions, ProxyLocation
from ray.serve.context import _get_global_client
from ray.serve.exceptions import RayServeException

from gan_dist.cluster.connect import require_alive, started_here
from gan_dist.cluster.serve.replica import deployment, hash_token
from gan_dist.core import host, storage
from gan_dist.core.access import require_protected
from gan_dist.core.errors import ClusterError, WorkerError
from gan_dist.core.storage.redaction import reason

APP = "gan-dist"


@dataclass(frozen=True)
class Address:
    """Where a server listens, and the token that requests need; without one, it is open to this machine."""

    host: str
    port: int
    token: str | None = None

    @property
    def url(self) -> str:
        shown = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{shown}:{self.port}/"


@contextmanager
def serving(
    uri: str,
    address: Address,
    *,
    trust: Sequence[str] = (),
    replicas: int = 1,
    cpus: float | None = None,
    renew_s: float = 10.0,
) -> Iterator[str]:
    """Serve a release on the cluster that this process is connected to; yields the URL.

    At the end, no request is accepted any more, and those that were are answered.

    Args:
        uri: A release, a checkpoint, or the folder of a run or a search, whose best release is taken up.
        address: On a cluster, of its head. The port 0 is a free one.
        trust: Import paths of networks of a user's own that may be imported.
        replicas: Processes that make images.
        cpus: That each reserves; all of this machine, or one on a cluster, if None.
        renew_s: Seconds between looks for a better release.

    Raises:
        ClusterError: the port is taken, or the cluster serves otherwise already.
        WorkerError: the replicas cannot be started.
    """
    require_protected(address.host, address.token)
    logging.getLogger("ray.serve").setLevel(logging.ERROR)
    here = started_here()
    if here:
        address = Address(address.host, _free_port(address), address.token)
        cpus = host.cores() / replicas if cpus is None else cpus
    cpus = 1.0 if cpus is None else cpus
    _start(address)
    settings = {"trust": list(trust), "options": storage.options(), "threads": max(1, int(cpus))}
    token_hash = None if address.token is None else hash_token(address.token)
    app = deployment(replicas, cpus).bind(uri, renew_s=renew_s, token_hash=token_hash, **settings)
    try:
        try:
            serve.run(app, name=APP, route_prefix="/")
        except (RuntimeError, RayError, RayServeException) as error:
            what = f"the replicas could not be started ({reason(error)})"
            raise WorkerError(what, "gan-dist doctor looks for what is wrong with a cluster") from error
        yield address.url
    finally:
        _end(here)


def _start(address: Address) -> None:
    """Start Ray Serve, unless the cluster has it already; its proxy is on the head."""
    options = HTTPOptions(host=address.host, port=address.port)
    try:
        serve.start(proxy_location=ProxyLocation.HeadOnly, http_options=options)
        client = _get_global_client()
        known = HTTPOptions() if client is None else client.http_config
    except (RuntimeError, RayError, RayServeException, ValueError) as error:
        what = f"Ray Serve could not be started at {address.url} ({reason(error)})"
        raise ClusterError(what, "choose another --port or --host") from error
    if (known.host, known.port) != (address.host, address.port):
        what = f"the cluster's Ray Serve listens at {known.host}:{known.port} already"
        raise ClusterError(what, f"give --host {known.host} --port {known.port}, or end it: serve shutdown")
    if APP in serve.status().applications:
        what = f"the cluster's Ray Serve has an application {APP} already"
        raise ClusterError(what, "end it where it was started, or by: serve shutdown")


def _end(here: bool) -> None:
    """Let the replicas answer what they have accepted, and end them; on a cluster also an idle Ray Serve."""
    with suppress(RayError, RayServeException, RuntimeError):
        serve.delete(APP)
        time.sleep(0.2)  # the proxy passes on what the replicas have answered
        if not here and not serve.status().applications:
            serve.shutdown()


def wait_until(stopped: Event) -> None:
    """Wait until the event is set; raise Ray's error if the Ray of this process's own ends before."""
    while not stopped.wait(0.5):
        require_alive()


def _free_port(address: Address) -> int:
    """Return the port, or a free one for 0; raise a ClusterError if it cannot be listened at."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            what = f"nothing can listen at {address.host}:{address.port} ({error.strerror})"
            raise ClusterError(what, "choose another --port or --host") from None
        return int(probe.getsockname()[1])
