"""A job on a cluster, through Ray's jobs API: handed in, followed, and what came of it."""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from aiohttp import ClientError
from ray.dashboard.modules import dashboard_sdk
from ray.dashboard.modules.job import sdk
from ray.exceptions import AuthenticationError
from ray.job_submission import JobStatus, JobSubmissionClient

from gan_dist.cluster.jobs import http
from gan_dist.core.errors import ClusterError
from gan_dist.core.storage.redaction import reason, redact

ADDRESSES = ("RAY_API_SERVER_ADDRESS", "RAY_ADDRESS")
"""Variables that win over an address, the first before the second."""
AGENT_S = 90.0
"""How long a head that has just been started is waited for."""
END_S = 5.0
"""How long after its log's end it is known how a job ended."""
GRACEFUL = {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "30"}
"""A stopped job gets the time to write a checkpoint; Ray's own 3 s after SIGTERM are too few."""
_NO_AGENT = "No available agent"


@dataclass(frozen=True)
class Entrypoint:
    """What a job runs, and what is reserved for it.

    With nothing reserved it runs on the head, even on one that was started with no CPUs. With something
    reserved it runs where that is free.
    """

    command: str
    cpus: float = 0.0
    resources: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Ended:
    """What came of a job: Ray's word for it, and what its program exited with."""

    status: str
    exit_code: int | None
    message: str


class Cluster:
    """The jobs of a cluster, at an address that `JobSubmissionClient` understands.

    As for all of Ray's clients, RAY_API_SERVER_ADDRESS and then RAY_ADDRESS win over `address`, and without
    any the cluster is one that runs on this machine.

    Raises:
        ClusterError: nothing listens there, it wants another token, or it has other versions; at once.
    """

    def __init__(self, address: str | None) -> None:
        for chatty in (dashboard_sdk.logger, sdk.logger):
            chatty.setLevel(logging.ERROR)
        asked = next((os.environ[name] for name in ADDRESSES if os.environ.get(name)), address)
        where = redact(asked) if asked else "this machine"
        http.require_listening(asked)
        try:
            self._client = JobSubmissionClient(address)
            # Ray tells this to its own pages only.
            answer = self._client._do_request("GET", "/api/v0/cluster_metadata")
            http.require_same_versions(where, answer.json()["data"])
        except AuthenticationError as error:
            raise http.refused(where, error) from None
        except (OSError, RuntimeError, ValueError, LookupError) as error:
            raise ClusterError(f"no cluster takes jobs at {where}: {reason(error)}") from None

    @property
    def url(self) -> str:
        """Where the dashboard and the jobs API are; without a password."""
        return redact(self._client.get_address())

    def dashboard(self, job: str) -> str:
        """Return a job's page."""
        return f"{self.url}/#/jobs/{job}"

    def submit(
        self, entrypoint: Entrypoint, archive: Path, variables: Mapping[str, str], note: Callable[[str], None]
    ) -> str:
        """Hand in a job and return its id.

        Args:
            entrypoint: What it runs.
            archive: A ZIP file that becomes its working directory.
            variables: What is set for it and its tasks, besides what makes a stop graceful. No secrets: this
                is shown to all who may list jobs.
            note: Shows a sentence.

        Raises:
            ClusterError: the cluster does not take it.
        """
        runtime_env = {"working_dir": str(archive), "env_vars": {**GRACEFUL, **variables}}
        deadline = time.monotonic() + AGENT_S
        while True:
            try:
                return self._client.submit_job(
                    entrypoint=entrypoint.command,
                    runtime_env=runtime_env,
                    entrypoint_num_cpus=entrypoint.cpus,
                    entrypoint_resources=dict(entrypoint.resources or {}),
                )
            except AuthenticationError as error:
                raise http.refused(self.url, error) from None
            except (OSError, RuntimeError, ValueError) as error:
                if _NO_AGENT not in str(error) or time.monotonic() > deadline:
                    raise ClusterError(f"{self.url} does not take the job: {reason(error)}") from None
                note("the head has no agent yet that takes jobs; trying again")
                time.sleep(1)

    async def follow(self, job: str, write: Callable[[str], None]) -> None:
        """Pass on what a job prints until it ends.

        Raises:
            ClusterError: the connection is lost; the job goes on where the cluster does.
        """
        try:
            async for text in self._client.tail_job_logs(job):
                write(text)
        except (OSError, RuntimeError, ClientError) as error:
            said = f"the connection to {self.url} was lost ({reason(error)})"
            raise ClusterError(f"{said}", "the job goes on where the cluster does") from None

    def ended(self, job: str) -> Ended:
        """Return what has come of a job so far.

        Raises:
            ClusterError: the cluster does not answer.
        """
        try:
            details = self._client.get_job_info(job)
            deadline = time.monotonic() + END_S
            while details.status == JobStatus.RUNNING and time.monotonic() < deadline:
                time.sleep(0.2)
                details = self._client.get_job_info(job)
        except (OSError, RuntimeError) as error:
            raise ClusterError(f"{self.url} does not say what came of {job}: {reason(error)}") from None
        return Ended(details.status.value, details.driver_exit_code, details.message or "")


def parse_resources(text: str | None) -> dict[str, float] | None:
    """Return resources to reserve, from JSON as `ray job submit` takes them.

    Raises:
        ClusterError: it is no such JSON.
    """
    if text is None:
        return None
    with suppress(ValueError):
        found: Any = json.loads(text)
        if isinstance(found, dict) and all(isinstance(one, int | float) for one in found.values()):
            return {str(name): float(value) for name, value in found.items()}
    raise ClusterError(f"--entrypoint-resources {text} is no JSON like '{{\"driver\": 1}}'")
