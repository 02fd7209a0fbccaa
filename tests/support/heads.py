"""Commands as a user types them, and Ray heads of their own for them: folder, ports and token."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.ports import free_ports

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent


def environment(ray_folder: str, **extra: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    # As after `source .venv/bin/activate`: a job's `python` is the one that the head was started with.
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**inherited, "PATH": path, "RAY_TMPDIR": ray_folder, **extra}


def gan_dist(*arguments: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "gan-dist"), *arguments]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def printed_apart(script: str, *arguments: str, ray_folder: str, timeout_s: float, **variables: str) -> str:
    """Return what a Python script prints, which has a process and a Ray of its own."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        env={"RAY_TMPDIR": ray_folder, "HOME": ray_folder, "PATH": "/usr/bin:/bin", **variables},
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout_s,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


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
        head.terminate()
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
