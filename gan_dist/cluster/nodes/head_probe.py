"""Whether a Ray cluster answers at an address, and whom it lets in, asked without joining it.

Ray itself tries for minutes where nobody listens, and then ends the process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import grpc

from gan_dist.core.errors import ClusterError
from gan_dist.core.host import is_local

WAIT_S = 15.0
"""How long a head that takes connections may be too busy to answer; where nobody listens is known at once."""
CLUSTER_ID = "/ray.rpc.NodeInfoGcsService/GetClusterId"
ALL_NODES = "/ray.rpc.NodeInfoGcsService/GetAllNodeInfo"
TOKEN_REMEDY = (
    "export RAY_AUTH_MODE=token and RAY_AUTH_TOKEN, or RAY_AUTH_TOKEN_PATH, with the token of the cluster, "
    "which ray get-auth-token prints on its head"
)


def cluster_address() -> str | None:
    """Return the address in RAY_ADDRESS, or None where a local Ray is to be started."""
    address = os.environ.get("RAY_ADDRESS")
    return None if address in (None, "", "local") else address


class Answer(Enum):
    """What is at an address."""

    SERVED = "a Ray cluster that answers"
    LOCKED = "a Ray cluster that wants another token"
    NOBODY = "nothing that answers"
    STRANGER = "something that is no Ray cluster"


def ask(address: str, headers: Mapping[str, str] | None = None) -> tuple[Answer, bytes, str]:
    """Return what is at `host:port`, its list of nodes where it answers, and what went wrong otherwise.

    Args:
        address: Where a cluster's head (its GCS) may listen.
        headers: What to authenticate with; nothing when absent.
    """
    metadata = [(name.lower(), value) for name, value in (headers or {}).items()]
    deadline = time.monotonic() + WAIT_S
    # Ray's own connections do not go through a proxy either.
    with grpc.insecure_channel(address, options=[("grpc.enable_http_proxy", 0)]) as channel:
        try:
            for method in (CLUSTER_ID, ALL_NODES):
                call = channel.unary_unary(method, request_serializer=bytes, response_deserializer=bytes)
                left_s = max(0.0, deadline - time.monotonic())
                nodes: bytes = call(b"", timeout=left_s, metadata=metadata)
        except grpc.RpcError as error:
            code, details = error.code(), " ".join(str(error.details()).split())
            if code is grpc.StatusCode.DEADLINE_EXCEEDED:
                details = f"{details} after {WAIT_S:g} s"
            if code is grpc.StatusCode.UNAUTHENTICATED:
                return Answer.LOCKED, b"", details
            refused = (
                "Connection refused" in details or "resol" in details or "Connection timed out" in details
            )
            silent = code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED)
            return (Answer.NOBODY if silent and refused else Answer.STRANGER), b"", details
    return Answer.SERVED, nodes, ""


def require_reachable(address: str) -> None:
    """Refuse the address of a cluster that this process cannot join.

    Raises:
        ClusterError: nobody answers there, or not with this token, or this machine is none of its nodes.
    """
    if "://" in address:
        raise ClusterError(
            f"RAY_ADDRESS={_shown(address)} is not the address of a head, by which its nodes start runs",
            "use host:6379 on one of them, or from elsewhere gan-dist submit with RAY_API_SERVER_ADDRESS",
        )
    if address == "auto" or os.environ.get("RAY_USE_TLS", "0") not in ("0", ""):
        return  # Ray finds it itself, or speaks to it in another way
    if not address.rpartition(":")[2].isdigit() or not address.rpartition(":")[0]:
        raise ClusterError(
            f"RAY_ADDRESS={_shown(address)} is not an address", "use host:port, such as host:6379"
        )
    headers = auth_headers()
    answer, nodes, details = ask(address, headers)
    if answer is Answer.LOCKED:
        raise ClusterError(
            f"the cluster at RAY_ADDRESS={address} {'refuses this token' if headers else 'wants a token'}",
            f"{TOKEN_REMEDY}",
        )
    if answer is not Answer.SERVED:
        what = "nobody answers" if answer is Answer.NOBODY else "no Ray cluster answers"
        raise ClusterError(
            f"RAY_ADDRESS={address}: {what} there ({details[:160]})",
            "start one with ray start "
            "--head, correct the address, or unset RAY_ADDRESS to use this machine alone",
        )
    _require_own_node(address, nodes)


def _require_own_node(address: str, listed: bytes) -> None:
    """Refuse a machine that is no node: Ray looks for one here for a minute."""
    from ray._private.services import find_node_ids
    from ray.core.generated.gcs_service_pb2 import GetAllNodeInfoReply  # type: ignore[attr-defined]

    nodes = GetAllNodeInfoReply.FromString(listed).node_info_list
    # ALIVE is the first of a node's states, 0.
    alive = {node.node_id.hex(): node.node_manager_address for node in nodes if node.state == 0}
    here = any(map(is_local, alive.values())) or alive.keys() & find_node_ids()
    if alive and not here:
        raise ClusterError(
            f"RAY_ADDRESS={address}: this machine is none of its nodes ({', '.join(alive.values())}), "
            "and only a node can start runs",
            "submit a job (ray job submit --working-dir . -- python "
            f"jobs/train.py ...), or run ray start --address={address} here",
        )


def auth_headers() -> dict[str, str]:
    """Return what Ray's clients of this process authenticate with; empty without RAY_AUTH_MODE=token.

    Raises:
        ClusterError: the token's file cannot be read.
    """
    from ray._private.authentication.http_token_authentication import get_auth_headers_if_auth_enabled

    file = os.environ.get("RAY_AUTH_TOKEN_PATH")
    if file and not os.environ.get("RAY_AUTH_TOKEN") and not Path(file).is_file():
        # Ray would end the process.
        raise ClusterError(f"RAY_AUTH_TOKEN_PATH={file} is no file", "correct it, or set RAY_AUTH_TOKEN")
    return dict(get_auth_headers_if_auth_enabled({}))


def _shown(address: str) -> str:
    """Return an address without a password in it."""
    scheme, mark, rest = address.rpartition("://")
    return f"{scheme}{mark}{rest.rpartition('@')[2]}"
