"""The documented commands, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
TINY = ["model.width=4", "model.latent_dim=8", "train.batch_size=32", "eval.samples=64"]


@pytest.fixture
def ray_folder() -> Iterator[str]:
    """A short path of its own for Ray's files: its sockets' paths are limited to 107 bytes."""
    with tempfile.TemporaryDirectory(prefix="gd-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


def environment(ray_folder: str, **extra: str) -> dict[str, str]:
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("RAY_")}
    # As after `source .venv/bin/activate`: a job's `python` is the one that the head was started with.
    path = f"{BIN}{os.pathsep}{os.environ['PATH']}"
    return {**inherited, "PATH": path, "RAY_TMPDIR": ray_folder, **extra}


def gan_dist(*arguments: str, env: dict[str, str], cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [str(BIN / "gan-dist"), *arguments]
    return subprocess.run(command, env=env, cwd=cwd, capture_output=True, text=True, timeout=300, check=False)


def test_help_comes_within_a_second_and_without_torch() -> None:
    code = "import sys; from gan_dist.cli import app; import typer; typer.main.get_command(app); "
    code += "print([m for m in ('torch', 'ray', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_users_error_has_exit_code_2_and_no_traceback(tmp_path: Path) -> None:
    done = gan_dist("train", "digit", env=dict(os.environ), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "digits" in done.stderr
    assert "Traceback" not in done.stderr
    done = gan_dist("train", "digits", "data.path=nowhere", env=dict(os.environ), cwd=tmp_path)
    assert done.returncode == 2
    assert f"data.path={tmp_path}/nowhere holds no image set" in done.stderr
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
@pytest.mark.slow
def test_an_interrupted_run_keeps_what_it_has_and_says_how_to_go_on(tmp_path: Path, ray_folder: str) -> None:
    command = [str(BIN / "gan-dist"), "train", "digits", *TINY, "train.kimg=100000", "eval.every_kimg=90000"]
    process = subprocess.Popen(
        [*command, "log.every_s=0.5", "--json"],
        env=environment(ray_folder),
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:
        if "kimg" in line:
            break
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    result = json.loads(out.splitlines()[-1])
    assert result["finished"] is False
    assert Path(result["checkpoint"], "manifest.json").exists()
    # The command that is printed is one that works as it is.
    assert f"continue it with\n  gan-dist train digits {' '.join(TINY)}" in out
    assert "Traceback" not in err

    grid = gan_dist(
        "sample", result["checkpoint"], "--n", "9", "--out", "grid.png", env=dict(os.environ), cwd=tmp_path
    )
    assert grid.returncode == 0, grid.stderr
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    ports = [int(one.getsockname()[1]) for one in sockets]
    for one in sockets:
        one.close()
    return ports


@contextmanager
def ray_head(folder: str) -> Iterator[dict[str, str]]:
    """A head of its own: temporary folder, ports and token. Yields what a user exports to use it."""
    # Ray's defaults for these are fixed numbers, which another cluster on this machine may have taken.
    names = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    env = environment(folder, RAY_AUTH_MODE="token", RAY_AUTH_TOKEN="e2e-" + os.urandom(16).hex())
    command = ["start", "--head", "--block", "--num-cpus=2", f"--temp-dir={folder}"]
    command += ["--node-ip-address=127.0.0.1", *(f"--{name}={port}" for name, port in ports.items())]
    dashboard = ports["dashboard-port"]
    with Path(folder, "head.log").open("w") as log:
        head = subprocess.Popen([str(BIN / "ray"), *command], env=env, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", dashboard)) == 0:
                    break
            time.sleep(0.2)
        yield {**env, "RAY_API_SERVER_ADDRESS": f"http://127.0.0.1:{dashboard}"}
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


@pytest.mark.ray
@pytest.mark.slow
def test_a_submitted_job_trains_on_the_cluster(tmp_path: Path, ray_folder: str) -> None:
    with ray_head(ray_folder) as env:
        command = [str(BIN / "ray"), "job", "submit", "--working-dir", ".", "--", "python", "jobs/train.py"]
        settings = [*TINY, f"storage={tmp_path}", "train.kimg=1", "eval.every_kimg=1"]
        done = submit([*command, "digits", *settings, "--json"], env)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [line for line in done.stdout.splitlines() if line.startswith('{"run"')]
    result = json.loads(lines[-1])
    assert result["kimg"] == 1.024
    assert Path(result["checkpoint"], "manifest.json").exists()
    assert Path(result["best"]["release"], "generator.safetensors").exists()
