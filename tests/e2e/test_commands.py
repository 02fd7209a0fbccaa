"""The documented commands, as a user types them."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.heads import BIN, CHATTER, ROOT, Head, environment, gan_dist, gan_dist_here, submit

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
    # Another one on the same run is told of it, and disturbs nothing.
    code, out, err = here(*command[1:])
    assert (code, out) == (2, "")
    assert f"digits is being worked on by process {process.pid} on" in err
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
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


SUBMIT = [str(BIN / "ray"), "job", "submit", "--working-dir", ".", "--", "python"]


def log_of(done: subprocess.CompletedProcess[str]) -> list[str]:
    """Return the lines of a submitted job's own log."""
    assert done.returncode == 0, done.stdout + done.stderr
    lines = done.stdout.splitlines()
    begin = next(number for number, line in enumerate(lines) if line.startswith("Running entrypoint"))
    end = next(number for number, line in enumerate(lines) if number > begin and "-----" in line)
    return lines[begin + 1 : end]


@contextmanager
def scraped(address: str) -> Iterator[dict[str, set[str]]]:
    """Ask a metrics endpoint all the time; yields the tags with which each of our metrics was ever seen."""
    seen: dict[str, set[str]] = {}
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.3):
            with suppress(OSError):
                for line in (
                    urllib.request.urlopen(f"{address}/metrics", timeout=10).read().decode().splitlines()
                ):
                    if found := re.match(r"(ray_gan_dist_\w+)\{.*(rank=.*)\} [\d.e+-]+$", line):
                        seen.setdefault(found[1], set()).add(found[2])

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


@pytest.mark.ray
@pytest.mark.slow
def test_a_submitted_job_trains_on_the_cluster(head: Head, tmp_path: Path) -> None:
    small = [*TINY, f"storage={tmp_path}", "--json", "train.kimg=4", "eval.every_kimg=2", "log.every_s=0.5"]
    with scraped(head.env["METRICS_ADDRESS"]) as seen:
        trained = submit([*SUBMIT, "jobs/train.py", "digits", *small], head.env)

    log = log_of(trained)
    result = json.loads(log[-1])
    assert result["kimg"] == 4
    assert Path(result["checkpoint"], "manifest.json").exists()
    assert Path(result["best"]["release"], "generator.safetensors").exists()
    # A line of progress now and then, and nothing of Ray's.
    assert len([line for line in log if re.match(r"[\d.]+/4\.0 kimg  .* images/s", line)]) >= 2
    assert [line for line in log if CHATTER.search(line)] == []

    # What the dashboard draws is what a head exports, of every worker.
    drawn = set(re.findall(r"ray_gan_dist_\w+", (ROOT / "jobs/cluster/grafana.json").read_text()))
    assert set(seen) == drawn
    assert seen["ray_gan_dist_loss_d"] == {'rank="0",run="digits",trial=""'}
    assert {tags[:8] for tags in seen["ray_gan_dist_data_wait_ratio"]} == {'rank="0"', 'rank="1"'}
