"""Jobs of a cluster, by Ray's jobs API: its dashboard is checked, a job submitted and followed to its end."""

from __future__ import annotations

import json
import logging
import math
import os
import platform
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.client import BadStatusLine
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import ray
import requests
from aiohttp import ClientError
from ray.dashboard.modules import dashboard_sdk
from ray.dashboard.modules.job import sdk
from ray.exceptions import AuthenticationError
from ray.job_submission import JobDetails as JobDetails
from ray.job_submission import JobStatus, JobSubmissionClient

from gan_dist.cluster.nodes.head_probe import TOKEN_REMEDY
from gan_dist.core.errors import ClusterError
from gan_dist.core.host import proxy_remedy
from gan_dist.core.storage.redaction import reason, redact

ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Variables that win over an address, the first before the second."""
PORTS = {"http": 80, "https": 443, "ray": 10001}
TIMEOUT_S = 15.0
"""How long a dashboard that accepts connections may be too busy to answer."""
AGENT_S = 90.0
"""How long a head that has just been started may be without an agent that takes jobs."""
END_S = 5.0
"""How long Ray may take after the end of a job's log to set its status."""
GRACEFUL_STOP = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "30"}
"""A stopped job gets the time to write a checkpoint; Ray's default of 3 s after SIGTERM is too short."""


class JobClient:
    """A client of a cluster's jobs API.

    Its address is any that `JobSubmissionClient` accepts, such as `http://HEAD:8265`. As for all of Ray's
    clients RAY_API_SERVER_ADDRESS and then RAY_ADDRESS win over it; without any it is this machine's.

    Raises:
        ClusterError: nothing listens there, it wants another token, or it has other versions; at once.
    """

    def __init__(self, address: str | None) -> None:
        for verbose in (dashboard_sdk.logger, sdk.logger):
            verbose.setLevel(logging.ERROR)
        given = next((os.environ[name] for name in ADDRESSES if os.environ.get(name)), address)
        where = redact(given) if given else "this machine"
        require_listening(given)
        try:
            self._client = JobSubmissionClient(address)
            # The versions are on a page that Ray's client has no method for.
            answer = self._client._do_request("GET", "/api/v0/cluster_metadata")
            require_same_versions(where, answer.json()["data"])
        except AuthenticationError as error:
            raise _unauthorized(where, error) from None
        except (OSError, RuntimeError, ValueError, LookupError) as error:
            raise ClusterError(f"no cluster takes jobs at {where}: {reason(error)}") from None

    @property
    def url(self) -> str:
        """URL of the dashboard and the jobs API, without a password."""
        return redact(self._client.get_address())

    def dashboard(self, job: str) -> str:
        """Return the URL of a job's page."""
        return f"{self.url}/#/jobs/{job}"

    def submit(
        self,
        command: str,
        archive: Path,
        variables: Mapping[str, str],
        cpus: float,
        resources: Mapping[str, float],
        on_retry: Callable[[str], None],
    ) -> str:
        """Submit a job and return its id.

        Args:
            command: The job's command.
            archive: A ZIP file with the job's working directory.
            variables: Environment variables of the job and its tasks, which all who may list jobs see.
            cpus, resources: Reserved for the command, which without any runs on the head.
            on_retry: Called with the reason before each retry.

        Raises:
            ClusterError: the cluster refuses the job.
        """
        runtime_env = {"working_dir": str(archive), "env_vars": {**GRACEFUL_STOP, **variables}}
        deadline = time.monotonic() + AGENT_S
        while True:
            try:
                return self._client.submit_job(
                    entrypoint=command,
                    runtime_env=runtime_env,
                    entrypoint_num_cpus=cpus,
                    entrypoint_resources=dict(resources),
                )
            except AuthenticationError as error:
                raise _unauthorized(self.url, error) from None
            except (OSError, RuntimeError, ValueError) as error:
                # Ray 2.60 has no other mark of a head that is still starting than this text.
                if "No available agent" not in str(error) or time.monotonic() > deadline:
                    raise ClusterError(f"{self.url} does not take the job: {reason(error)}") from None
                on_retry("the head has no agent yet that takes jobs; trying again")
                time.sleep(1)

    async def follow(self, job: str, write: Callable[[str], None]) -> None:
        """Write a job's output until it ends; raise a ClusterError if the connection is lost."""
        try:
            async for text in self._client.tail_job_logs(job):
                write(text)
        except (OSError, RuntimeError, ClientError) as error:
            what = f"the connection to {self.url} was lost ({reason(error)})"
            raise ClusterError(what, "the job goes on where the cluster does") from None

    def result(self, job: str) -> JobDetails:
        """Return Ray's record of a job whose log has ended; raise a ClusterError if no cluster answers."""
        try:
            details = self._client.get_job_info(job)
            deadline = time.monotonic() + END_S
            while details.status == JobStatus.RUNNING and time.monotonic() < deadline:
                time.sleep(0.2)
                details = self._client.get_job_info(job)
        except (OSError, RuntimeError) as error:
            raise ClusterError(f"{self.url} does not say what came of {job}: {reason(error)}") from None
        return details


def parse_resources(text: str) -> dict[str, float]:
    """Return resources to reserve, from JSON as `ray job submit` takes them, or raise a ClusterError."""
    with suppress(TypeError, ValueError, OverflowError, RecursionError):
        parsed: Any = json.loads(text)
        if isinstance(parsed, dict) and all(
            isinstance(value, int | float) and 0 <= value < math.inf for value in parsed.values()
        ):
            return {str(name): float(value) for name, value in parsed.items()}
    raise ClusterError(f"--entrypoint-resources {text} is no JSON like '{{\"driver\": 1}}'")


def require_listening(address: str | None) -> None:
    """Raise a ClusterError at once for an address at which Ray's client would wait, or end the process."""
    if not address or address in ("auto", "local"):
        return
    scheme, _, rest = address.rpartition("://")
    if scheme and scheme not in PORTS:
        return
    with suppress(ValueError):
        place = urlsplit(f"//{rest}")
        if place.hostname and (port := place.port or PORTS.get(scheme)):
            if scheme.startswith("http"):
                dashboard_status(address)
            else:
                try:
                    socket.create_connection((place.hostname, port), TIMEOUT_S).close()
                except OSError as error:
                    raise _unreachable(address, error) from None
            return
    raise ClusterError(f"{redact(address)} is no address of a cluster", "write one like http://HEAD:8265")


def dashboard_status(url: str, headers: Mapping[str, str] | None = None) -> int:
    """Return the HTTP status of a dashboard's answer: 200, 401 without a token, or 403 for a wrong one.

    Raises:
        ClusterError: nothing answers there, or what does is no dashboard of Ray's.
    """
    proxied = proxy_remedy(url)
    try:
        answer = requests.get(f"{url.rstrip('/')}/api/version", headers=headers, timeout=TIMEOUT_S)
        refused = answer.status_code in (401, 403) and (not proxied or "token" in answer.text)
        is_ray = refused or "ray_version" in answer.text
    except (OSError, ValueError) as error:
        if type(_root_cause(error)) is not BadStatusLine:
            raise _unreachable(url, error) from None
        is_ray = False
    if not is_ray:
        what = f"what answers at {redact(url)} is no dashboard of Ray's"
        raise ClusterError(what, f"its port is 8265 unless `ray start` was told another{proxied}")
    return answer.status_code


def _unreachable(address: str, error: Exception) -> ClusterError:
    return ClusterError(
        f"no cluster answers at {redact(address)} ({reason(_root_cause(error))})",
        "start one with `ray start --head`, correct the address (RAY_API_SERVER_ADDRESS wins over "
        "RAY_ADDRESS, and both over --address), or forward the port of its head's dashboard: "
        f"ssh -L 8265:localhost:8265 HEAD{proxy_remedy(address)}",
    )


def _unauthorized(where: str, error: AuthenticationError) -> ClusterError:
    # Ray 2.60 drops the HTTP status of the answer; 403 is for a wrong token.
    wanted = "another token than is set here" if "Forbidden" in str(error) else "a token"
    return ClusterError(f"the cluster at {where} wants {wanted}", TOKEN_REMEDY)


def require_same_versions(where: str, metadata: Mapping[str, Any]) -> None:
    """Refuse a cluster whose `cluster_metadata` name another Ray, or another minor version of Python."""
    there = {"Ray": metadata["rayVersion"], "Python": _minor(metadata["pythonVersion"])}
    here = {"Ray": ray.__version__, "Python": _minor(platform.python_version())}
    both = [
        f"{name} is {there[name]} there and {here[name]} here" for name in here if there[name] != here[name]
    ]
    if both:
        what = f"the cluster at {where} has other versions: {'; '.join(both)}"
        raise ClusterError(what, "install the same on both, as requirements.lock has it")


def _root_cause(error: BaseException) -> BaseException:
    return _root_cause(error.__context__) if error.__context__ else error


def _minor(version: object) -> str:
    return ".".join(str(version).split(".")[:2])
