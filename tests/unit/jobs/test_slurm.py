"""slurm.sbatch with commands of our own in place of Slurm's, Ray's and gan-dist."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.heads import ROOT

SCRIPT = ROOT / "jobs" / "cluster" / "slurm.sbatch"
SRUN = """#!/bin/bash
echo "srun $*" >> "$CALLS"
while [[ "$1" == --* ]]; do shift; done
exec "$@"
"""
RAY = """#!/bin/bash
echo "ray $*" >> "$CALLS"
while [[ "$1" != -- ]]; do shift; done
shift
exec "$@"
"""
SCONTROL = """#!/bin/bash
echo "scontrol $*" >> "$CALLS"
"""
GAN_DIST = """#!/bin/bash
echo "gan-dist $* at $RAY_ADDRESS" >> "$CALLS"
trap 'exit 130' TERM
[[ "$2" == waits ]] && { touch "$CALLS.up"; while :; do sleep 0.05; done; }
[[ "$2" == breaks ]] && { trap '' TERM; touch "$CALLS.up"; sleep 1; exit 2; }
exit 0
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(tmp_path: Path) -> Start:
    for name, script in {"srun": SRUN, "ray": RAY, "scontrol": SCONTROL, "gan-dist": GAN_DIST}.items():
        (tmp_path / name).write_text(script)
        (tmp_path / name).chmod(0o755)

    def popen(*arguments: str, **env: str) -> subprocess.Popen[str]:
        inherited = {
            key: value for key, value in os.environ.items() if not key.startswith(("RAY_", "SLURM_"))
        }
        slurm = {"SLURM_JOB_ID": "70007", "SLURM_JOB_NUM_NODES": "3", "SLURM_SUBMIT_DIR": str(tmp_path)}
        own = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)}
        given = {**inherited, **own, **slurm, "CALLS": str(tmp_path / "calls"), "RAY_AUTH_TOKEN": "t", **env}
        return subprocess.Popen(
            ["bash", str(SCRIPT), *arguments],
            env=given,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    return popen


def test_a_command_runs_once_on_rays_head_among_all_nodes(start: Start, tmp_path: Path) -> None:
    job = start("train", "my config.yaml", "train.kimg=1", GAN_DIST_HEAD="10.0.0.1")
    _, err = job.communicate(timeout=60)
    assert job.returncode == 0, err
    srun, ray, gan_dist = (tmp_path / "calls").read_text().split("\nray ")[0], *_calls(tmp_path)[-2:]
    assert "--kill-on-bad-exit=1 ray symmetric-run --address 10.0.0.1:20007 --min-nodes 3 --" in srun
    assert ray
    assert gan_dist == "gan-dist train my config.yaml train.kimg=1 at 10.0.0.1:20007"
    assert not (tmp_path / "gd-70007").exists()


@pytest.mark.parametrize(
    ("config", "number", "code", "requeued"),
    [
        ("waits", signal.SIGUSR1, 130, True),
        ("waits", signal.SIGTERM, 130, True),
        ("breaks", signal.SIGUSR1, 2, False),
    ],
)
def test_a_warning_writes_a_checkpoint_and_the_job_waits_again(
    start: Start, tmp_path: Path, config: str, number: signal.Signals, code: int, *, requeued: bool
) -> None:
    job = start("train", config)
    deadline = time.monotonic() + 60
    while not (tmp_path / "calls.up").exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    job.send_signal(number)
    _, err = job.communicate(timeout=60)
    assert job.returncode == code, err
    assert ("scontrol requeue 70007" in _calls(tmp_path)) == requeued


@pytest.mark.parametrize(
    ("arguments", "env", "said"),
    [
        ([], {}, "run what? usage: sbatch jobs/cluster/slurm.sbatch VERB ARGUMENTS"),
        (["train"], {"SLURM_JOB_ID": ""}, "this is for sbatch"),
        (["train"], {"RAY_AUTH_TOKEN": ""}, "no token: make one"),
        (["train"], {"RAY_AUTH_MODE": "disabled"}, "RAY_AUTH_MODE=disabled"),
    ],
)
def test_what_would_be_open_or_alone_is_refused(
    start: Start, arguments: list[str], env: dict[str, str], said: str
) -> None:
    job = start(*arguments, **env)
    _, err = job.communicate(timeout=60)
    assert job.returncode == 2
    assert said in err


def _calls(folder: Path) -> list[str]:
    return (folder / "calls").read_text().splitlines()
