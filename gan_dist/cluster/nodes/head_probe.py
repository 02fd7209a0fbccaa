"""A probe of a cluster's head: whether it answers at an address and accepts this process, without joining.

Ray itself tries for minutes where nothing listens, and then ends the process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from enum import Enum
from pathlib import Path
from typing import Any, NamedTuple

import grpc

from gan_dist.core.errors import ClusterError
from gan_dist.core.host import is_local, proxy_remedy

WAIT_S = 15.0
"""How long a head that accepts connections may be too busy to answer; an unused port is known at once."""
CLUSTER_ID = "/ray.rpc.NodeInfoGcsService/GetClusterId"
ALL_NODES = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
ALIVE = 0
"""The first of a node's states."""
TOKEN_REMEDY = (
    "export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, with the token of the cluster, "
    "which ray get-auth-token prints on its head"
)


def cluster_address() -> str | None:
    """Return the address in RAY_ADDRESS, or None where a local Ray is to be started."""
    address = os.environ.get("RAY_ADDRESS")
    return None if address in (None, "", "local") else address


class HeadState(Enum):
    """State of an address."""

    READY = "a Ray cluster that answers"
    UNAUTHORIZED = "a Ray cluster that requires another token"
    UNREACHABLE = "nothing that listens"
    NOT_RAY = "something that is no Ray cluster"


class HeadProbe(NamedTuple):
    """Result of a probe: the cluster's nodes, as a serialised GetAllNodeInfoReply, or an error's details."""

    state: HeadState
    nodes: bytes = b""
    details: str = ""


def probe_head(address: str, headers: Mapping[str, str] | None = None) -> HeadProbe:
    """Ask the head (its GCS) that may listen at `host:port` for its list of nodes."""
    metadata = [(name.lower(), value) for name, value in (headers or {}).items()]
    deadline = time.monotonic() + WAIT_S
    # Ray's own connections bypass proxies, too.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            for method in (CLUSTER_ID, ALL_NODES):
                call = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
                left_s = max(0.0, deadline - time.monotonic())
                nodes: bytes = call(b"", timeout=left_s, metadata=metadata)
        except grpc.RpcError as error:
            return _failed_probe(error.code(), " ".join(str(error.details()).split()))
    return HeadProbe(HeadState.READY, nodes)


def _failed_probe(code: grpc.StatusCode, details: str) -> HeadProbe:
    if code is grpc.StatusCode.UNAUTHENTICATED:
        return HeadProbe(HeadState.UNAUTHORIZED, details=details)
    # The code is the same for an unused port and for a listener that does not speak gRPC (grpcio 1.85).
    unreached = any(text in details for text in ("Connection refused", "resol", "Connection timed out"))
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        details = f"{details} after {WAIT_S:g} s"
    silent = code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
    return HeadProbe(HeadState.UNREACHABLE if silent and unreached else HeadState.NOT_RAY, details=details)


def require_reachable(address: str) -> bytes:
    """Refuse the address of a cluster that this process cannot join.

    Returns the cluster's nodes, as a serialised GetAllNodeInfoReply; nothing where Ray itself has to ask.

    Raises:
        ClusterError: no cluster answers there or accepts the token, or this machine is none of its nodes.
    """
    if "://" in address:
        raise ClusterError(
            f"RAY_ADDRESS={_without_user(address)} is not the address of a head",
            "use host:6379 on one of them, or from elsewhere gan-dist submit with RAY_API_SERVER_ADDRESS",
        )
    if address == "auto" or os.environ.get("RAY_USE_TLS", "0") not in ("0", ""):
        return b""  # Ray finds the head itself, or uses another protocol
    if not address.rpartition(":")[2].isdigit() or not address.rpartition(":")[0]:
        what = f"RAY_ADDRESS={_without_user(address)} is not an address"
        raise ClusterError(what, "use host:port, such as host:6379")
    headers = auth_headers()
    probe = probe_head(address, headers)
    if probe.state is HeadState.UNAUTHORIZED:
        refusal = "refuses this token" if headers else "wants a token"
        raise ClusterError(f"the cluster at RAY_ADDRESS={address} {refusal}", TOKEN_REMEDY)
    if probe.state is not HeadState.READY:
        what = "nobody answers" if probe.state is HeadState.UNREACHABLE else "no Ray cluster answers"
        raise ClusterError(
            f"RAY_ADDRESS={address}: {what} there ({probe.details[:160]})",
            "start one with ray start --head, correct the address, or unset RAY_ADDRESS to use this machine"
            + proxy_remedy(f"http://{address}"),
        )
    _require_own_node(address, probe.nodes)
    return probe.nodes


def node_resources(reply: bytes) -> list[tuple[float, float]]:
    """Return the CPUs and GPUs of the nodes that are alive in a serialised GetAllNodeInfoReply."""
    totals = [node.resources_total for node in _alive_nodes(reply)]
    return [(total.get("CPU", 0.0), total.get("GPU", 0.0)) for total in totals]


def _alive_nodes(reply: bytes) -> list[Any]:
    from ray.core.generated.gcs_service_pb2 import GetAllNodeInfoReply  # type: ignore[attr-defined]

    return [node for node in GetAllNodeInfoReply.FromString(reply).node_info_list if node.state == ALIVE]


def _require_own_node(address: str, reply: bytes) -> None:
    """Refuse a machine that is no node; Ray would look for a node here for a minute."""
    from ray._private.services import find_node_ids

    alive = {node.node_id.hex(): node.node_manager_address for node in _alive_nodes(reply)}
    here = any(map(is_local, alive.values())) or alive.keys() & find_node_ids()
    if alive and not here:
        raise ClusterError(
            f"RAY_ADDRESS={address}: this machine is none of its nodes ({', '.join(alive.values())})",
            f"submit a job (gan-dist submit train ...), or run ray start --address={address} here",
        )


def auth_headers() -> dict[str, str]:
    """Return the authentication headers of this process's Ray clients; none without RAY_AUTH_MODE=token."""
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    file = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if file and not os.environ.get("RAY_AUTH_TOKEN") and not Path(file).is_file():
        # Ray would end the process.
        raise ClusterError(f"RAY_AUTH_TOKEN_PATH={file} is no file", "correct it, or set RAY_AUTH_TOKEN")
    return dict(get_auth_headers_if_auth_enabled({}))


def _without_user(address: str) -> str:
    scheme, mark, rest = address.rpartition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"
