"""Whether there is a cluster at an address that takes jobs from here."""

from __future__ import annotations

import platform
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import ray
import requests

from gan_dist.core.errors import ClusterError
from gan_dist.core.storage.redaction import reason, redact

TIMEOUT_S = 15.0
"""How long one that takes connections may be too busy to answer; where nobody listens is known at once."""
PORTS = {"http": 80, "https": 443, "ray": 10001}


def require_listening(address: str | None) -> None:
    """Refuse at once an address that Ray's client would wait for, or end the process over.

    Raises:
        ClusterError: it is no address, nothing listens there, or what does is no dashboard of Ray's.
    """
    if not address or address in ("auto", "local"):
        return
    scheme, _, rest = address.rpartition("://")
    if scheme and scheme not in PORTS:
        return
    with suppress(ValueError):
        place = urlsplit(f"//{rest}")
        if place.hostname and (port := place.port or PORTS.get(scheme)):
            if scheme.startswith("http"):
                status(address)
            else:
                _connect(redact(address), place.hostname, port)
            return
    raise ClusterError(f"{redact(address)} is no address of a cluster", "write one like http://HEAD:8265")


def status(url: str, headers: Mapping[str, str] | None = None) -> int:
    """Return the HTTP status with which a dashboard answers who asks for its version.

    It is 401 for who has no token where one is wanted, and 403 for another one.

    Args:
        url: Where it may be.
        headers: What to authenticate with; nothing when absent.

    Raises:
        ClusterError: nothing answers there, or what does is no dashboard of Ray's.
    """
    try:
        answer = requests.get(f"{url.rstrip('/')}/api/version", headers=headers, timeout=TIMEOUT_S)
        is_ray = answer.status_code in (401, 403) or "ray_version" in answer.text
    except (OSError, ValueError) as error:
        if "BadStatusLine" not in str(error):
            raise _silent(redact(url), error) from None
        is_ray = False
    if not is_ray:
        raise ClusterError(
            f"what answers at {redact(url)} is no dashboard of Ray's",
            "its port is 8265 unless `ray start` was told another",
        )
    return answer.status_code


def _connect(where: str, host: str, port: int) -> None:
    try:
        socket.create_connection((host, port), TIMEOUT_S).close()
    except OSError as error:
        raise _silent(where, error) from None


def _silent(where: str, error: Exception) -> ClusterError:
    return ClusterError(
        f"no cluster answers at {where} ({reason(_first(error))})",
        "start one with `ray start --head`, "
        "correct the address (RAY_API_SERVER_ADDRESS wins over RAY_ADDRESS, and both over --address), or "
        "forward the port of its head's dashboard: ssh -L 8265:localhost:8265 HEAD",
    )


def require_same_versions(where: str, told: Mapping[str, Any]) -> None:
    """Refuse a cluster that has another Ray than is here, or another minor version of Python.

    Args:
        where: The cluster, for the message.
        told: What its dashboard says of itself.

    Raises:
        ClusterError: with both versions.
    """
    there = {"Ray": told["rayVersion"], "Python": _minor(told["pythonVersion"])}
    here = {"Ray": ray.__version__, "Python": _minor(platform.python_version())}
    differing = [
        f"{name} is {there[name]} there and {here[name]} here" for name in here if there[name] != here[name]
    ]
    if differing:
        raise ClusterError(
            f"the cluster at {where} has other versions: {'; '.join(differing)}. What was tried here may not "
            "run there: install the same on both, as requirements.lock has it"
        )


def refused(where: str, error: Exception) -> ClusterError:
    """Return what to tell a user whom a cluster does not let in."""
    wants = "another token than is set here" if "Forbidden" in str(error) else "a token"
    return ClusterError(
        f"the cluster at {where} wants {wants}: set RAY_AUTH_MODE=token, and RAY_AUTH_TOKEN, or a file's "
        "path as RAY_AUTH_TOKEN_PATH, to the one that its head has, as `ray get-auth-token` tells there"
    )


def _first(error: BaseException) -> BaseException:
    return _first(error.__context__) if error.__context__ else error


def _minor(version: object) -> str:
    return ".".join(str(version).split(".")[:2])
