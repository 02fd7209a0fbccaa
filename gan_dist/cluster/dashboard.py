"""Whether there is a cluster at an address that takes jobs from here; known within seconds."""

from __future__ import annotations

import platform
import socket
from collections.abc import Mapping
from contextlib import suppress
from typing import Any
from urllib.parse import urlsplit

import ray
import requests

from gan_dist.errors import ClusterError
from gan_dist.storage.wording import shown

TIMEOUT_S = 5.0
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
    place = urlsplit(f"//{rest}")
    with suppress(ValueError):
        if place.hostname and (port := place.port or PORTS.get(scheme)):
            _probe(f"{scheme}://{rest}".rstrip("/"), place.hostname, port)
            return
    raise ClusterError(f"{shown(address)} is no address of a cluster; write one like http://HEAD:8265")


def _probe(url: str, host: str, port: int) -> None:
    where = shown(url.removeprefix("://"))
    try:
        if not url.startswith("http"):
            socket.create_connection((host, port), TIMEOUT_S).close()
            return
        answer = requests.get(f"{url}/api/version", timeout=TIMEOUT_S)
        # Without a token a cluster answers 401.
        is_ray = answer.status_code == 401 or "ray_version" in answer.text
    except OSError as error:
        is_ray = False
        if "BadStatusLine" not in str(error):
            raise ClusterError(
                f"no cluster answers at {where} ({brief(_first(error))}); start one with `ray start --head`, "
                "or forward the port of its head's dashboard: ssh -L 8265:localhost:8265 HEAD"
            ) from None
    if not is_ray:
        raise ClusterError(
            f"what answers at {where} is no dashboard of Ray's; its port is 8265 unless `ray start` was told "
            "another"
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


def brief(error: BaseException) -> str:
    """Return an error in one line, without passwords."""
    return " ".join(shown(str(error)).split())[:300] or type(error).__name__


def _first(error: BaseException) -> BaseException:
    return _first(error.__context__) if error.__context__ else error


def _minor(version: object) -> str:
    return ".".join(str(version).split(".")[:2])
