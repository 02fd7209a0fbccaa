"""The documented commands, as a user types them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.heads import BIN, environment, gan_dist, ray_head, submit

TINY = ["model.width=4", "model.latent_dim=8", "train.batch_size=32", "eval.samples=64"]


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
