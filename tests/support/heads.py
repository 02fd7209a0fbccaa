"""Commands as a user types them, and Ray heads of their own for them: folder, ports and token."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from gan_dist.cli import main
from tests.support.ports import free_ports

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
NICENESS = "0"
"""That of Ray's workers; by Ray's default, 15, they wait for every other test."""
CHATTER = re.compile(r"INFO|WARNING|ERROR|Traceback|\(\w+ pid=|\(raylet")
"""What Ray says of itself, which no user's log has."""


@dataclass(frozen=True)
class Head:
    """A running head, and what its user has."""

    env: dict[str, str]
    """What a user exports to submit jobs to it."""
    folder: Path
    """Ray's files."""
    home: Path
    bucket: str
    canaries: dict[str, str]
    """Secrets, by the variables that hold them."""

    @property
    def url(self) -> str:
        return self.env["RAY_API_SERVER_ADDRESS"]

    @property
    def address(self) -> str:
        """What RAY_ADDRESS is for commands that join it themselves."""
        return address_of(self.folder)


def address_of(ray_folder: str | Path) -> str:
    """Return the address of the cluster whose files are in a folder, as soon as its head has written it."""
    file = Path(ray_folder, "ray_current_cluster")
    deadline = time.monotonic() + 60
    while not file.exists() and time.monotonic() < deadline:
        time.sleep(0.2)
    return file.read_text().strip()


def environment(ray_folder: str, **extra: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    # As after `source .venv/bin/activate`: a job's `python` is the one that the head was started with.
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**inherited, "PATH": path, "RAY_TMPDIR": ray_folder, "RAY_worker_niceness": NICENESS, **extra}


def gan_dist(*arguments: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "gan-dist"), *arguments]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def gan_dist_here(
    *arguments: str, cwd: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> tuple[int, str, str]:
    """Run a command in this process, which has imported already what takes seconds to import.

    Returns its exit code and what it printed to standard output and standard error.
    """
    monkeypatch.chdir(cwd)
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert isinstance(ended.value.code, int)
    return ended.value.code, *capsys.readouterr()


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


@contextmanager
def ray_head(folder: str, **settings: str) -> Iterator[dict[str, str]]:
    """A head of its own: temporary folder, ports and token.

    `settings` are environment variables that it is started with, beside these or instead of them. Yields what
    a user exports to use it, and METRICS_ADDRESS, where Prometheus would ask it.
    """
    # Ray's defaults for these are fixed numbers, which another cluster on this machine may have taken.
    names = ["port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port"]
    names.append("metrics-export-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    env = environment(folder, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="e2e-" + os.urandom(16).hex())
    env |= {"RAY_metrics_report_interval_ms": "500", **settings}
    command = ["start", "--head", "--block", "--num-cpus=2", f"--temp-dir={folder}"]
    command += ["--node-ip-address=127.0.0.1", *(f"--{name}={port}" for name, port in ports.items())]
    dashboard = ports["dashboard-port"]
    told = Path(folder, "head.log")
    with told.open("w") as log:
        head = subprocess.Popen([str(BIN / "ray"), *command], env=env, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 180
        # Ray gives a head up that is not complete after 30 s, long after its dashboard listens.
        while "Ray runtime started" not in told.read_text() or not _listens(dashboard):
            if head.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the head did not start: {told.read_text()}")
            time.sleep(0.2)
        addresses = {"RAY_API_SERVER_ADDRESS": dashboard, "METRICS_ADDRESS": ports["metrics-export-port"]}
        yield {**env, **{name: f"http://127.0.0.1:{port}" for name, port in addresses.items()}}
    finally:
        # Asked to end, a head that has run jobs takes half a minute.
        with suppress(psutil.NoSuchProcess):
            for process in (own := psutil.Process(head.pid)).children(recursive=True):
                with suppress(psutil.NoSuchProcess):
                    process.kill()
            own.kill()
        head.wait(timeout=60)


def submit(command: list[str], env: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """Submit a job, again while the head, which has just been started, has no agent yet that takes it."""
    deadline = time.monotonic() + 90
    while True:
        done = subprocess.run(
            command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
        )
        if "No available agent" not in done.stderr or time.monotonic() > deadline:
            return done
        time.sleep(2)


def routes(head: Head, *methods: str) -> list[tuple[str, str]]:
    """Return methods and paths of the dashboard's and the agent's routes, which they log at their start."""
    logs = "".join(one.read_text() for one in head.folder.glob("session_2*/logs/dashboard*.log"))
    found = re.findall(r"<ResourceRoute \[(\w+)\] <\w+\s+(/\S*?)>? ->", logs)
    return sorted({(method, path) for method, path in found if method in methods})
