"""The documented commands, as a user types them."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gan_dist.core.storage.lock import LOCK_FILE
from tests.support.commands import Command, command, wait_until
from tests.support.heads import ROOT, environment, gan_dist, gan_dist_here

TINY = ["model.width=4", "model.latent_dim=8", "train.batch_size=32", "eval.samples=64"]


def test_help_comes_within_a_second_and_without_torch() -> None:
    code = "import sys; from gan_dist.cli import app; import typer; typer.main.get_command(app); "
    code += "print([m for m in ('torch', 'ray', 'pyarrow') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_users_error_has_exit_code_2_and_no_traceback(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    done = gan_dist("train", "digit", env=dict(os.environ), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "digits" in done.stderr
    assert "Traceback" not in done.stderr
    wrong = ["train", "digits", "data.path=nowhere"]
    code, _, err = gan_dist_here(*wrong, cwd=tmp_path, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 2
    assert f"data.path={tmp_path}/nowhere holds no image set" in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.ray
@pytest.mark.slow
def test_an_interrupted_run_keeps_what_it_has_and_says_how_to_go_on(
    tmp_path: Path, ray_folder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def here(*arguments: str) -> tuple[int, str, str]:
        return gan_dist_here(*arguments, cwd=tmp_path, capsys=capsys, monkeypatch=monkeypatch)

    arguments = ["train", "digits", *TINY, "train.kimg=100000", "eval.every_kimg=90000"]
    given = [*arguments, "log.every_s=0.5", "--json"]
    # As on a batch system: a long path for temporary files, and no home where one could write.
    folder = f"{ray_folder}/{'long' * 20}"
    env = environment(folder, TMPDIR=folder, HOME="/proc/nowhere")
    with command(*given, cwd=tmp_path, env=env, stdout=subprocess.PIPE) as running:
        running.wait_for("kimg")
        # Another one on the same run is told of it, and disturbs nothing.
        code, out, err = here(*arguments)
        assert (code, out) == (2, "")
        assert f"digits is being worked on by process {running.process.pid} on" in err
        # As systemd does, which is more than a terminal, `timeout` or Slurm do.
        running.signal_all(signal.SIGTERM)
        out, _ = running.process.communicate(timeout=120)
        err = running.said()
        assert running.process.returncode == 130, err
        assert running.left_over() == []
    assert not (tmp_path / "runs/digits" / LOCK_FILE).exists()
    result = json.loads(out.splitlines()[-1])
    assert result["finished"] is False
    assert Path(result["checkpoint"], "manifest.json").exists()
    # The command that is printed is one that works as it is.
    assert f"continue it with\n  gan-dist train digits {' '.join(TINY)}" in out
    assert "Traceback" not in err
    printed = re.search(r"^  report +(gan-dist report \S+)$", out, re.MULTILINE)
    assert printed
    code, _, err = here(*shlex.split(printed[1])[1:])
    assert code == 0, err
    assert "not finished, and nobody works on it" in (tmp_path / "report.html").read_text()

    code, _, err = here("sample", result["checkpoint"], "--n", "9", "--out", "grid.png")
    assert code == 0, err
    assert (tmp_path / "grid.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.ray
@pytest.mark.slow
def test_a_run_whose_output_nobody_reads_trains_on_and_ends_at_once_and_in_order(
    tmp_path: Path, ray_folder: str
) -> None:
    reader, output = os.pipe()
    os.close(reader)
    run = tmp_path / "runs/digits"
    given = ["train", "digits", *TINY, "train.kimg=100000", "eval.every_kimg=90000", "log.every_kimg=0.1"]
    streams = {"stdout": output, "stderr": output}
    with command(*given, "log.every_s=0.5", cwd=tmp_path, env=environment(ray_folder), **streams) as running:
        wait_until(lambda: (run / "metrics.jsonl").exists() or running.process.poll() is not None)
        for _ in range(3):
            running.signal_group(signal.SIGINT)
            time.sleep(0.15)
        assert running.process.wait(60) == 130
        assert running.left_over() == []
    os.close(output)
    assert not (run / LOCK_FILE).exists()


HELD = """
import time
import ray
from gan_dist.cluster.connect import connect

with connect():
    ray.get(ray.remote(lambda: None).remote())
    print("connected", flush=True)
    time.sleep(600)
"""


@pytest.mark.ray
@pytest.mark.slow
def test_the_local_ray_of_a_command_that_is_killed_dies_with_it(ray_folder: str) -> None:
    env = environment(ray_folder)
    process = subprocess.Popen(
        [sys.executable, "-c", HELD], env=env, cwd=ROOT, stdout=subprocess.PIPE, text=True
    )
    running = Command(process)
    assert process.stdout is not None
    assert process.stdout.readline() == "connected\n"
    # Ray's agents try for a minute to tell their head, which is gone, of the end of their node.
    agents = [one for one in running.family() if one.name().endswith("Agent")]
    assert {"gcs_server", "raylet"} <= {one.name() for one in running.family()}
    process.kill()
    process.wait()
    wait_until(lambda: not set(running.family()) - set(agents))
    for one in agents:
        one.kill()
