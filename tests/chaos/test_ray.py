"""Faults of every kind at every phase of `gan-dist train`, on a Ray of its own with two workers."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import nullcontext, suppress
from pathlib import Path

import psutil
import pytest

from gan_dist.artifacts.records import read_records
from gan_dist.core.storage.hashed_folder import checkpoint_names, read_manifest
from gan_dist.core.storage.lock import LOCK_FILE
from tests.chaos.conftest import Chaos
from tests.chaos.inject import sitecustomize as inject
from tests.support.commands import Command, command, wait_until
from tests.support.disks import small_disk
from tests.support.heads import environment

pytestmark = [pytest.mark.ray, pytest.mark.soak]
TRAIN = [
    *("train", "digits", "model.width=4", "model.latent_dim=8", "train.batch_size=32", "eval.samples=64"),
    *("scale.workers=2", "scale.cpus_per_worker=1", "log.every_s=0.5", "train.checkpoint_every_s=1"),
    *("eval.target=null", "train.keep=2"),
]
SHORT = ["train.kimg=2.56", "eval.every_kimg=1.28"]
LONG = ["train.kimg=80", "eval.every_kimg=16"]
RECOVERY_S = 60.0
TO_THE_COMMAND = {"one SIGTERM": signal.SIGTERM, "SIGTERM": signal.SIGTERM}
TO_THE_COMMAND |= {"SIGINT": signal.SIGINT, "SIGHUP": signal.SIGHUP}
"""Signals that the test sends, to the command (`one`) or to its process group."""
KINDS = ["SIGKILL", *TO_THE_COMMAND, "SIGSTOP", "segfault", "exception", "hang", "memory", "disk", "raylet"]
ENDS = {"disk": 2, "raylet": 1, "hang save": 2} | dict.fromkeys(TO_THE_COMMAND, 130)
"""Faults that end the command, some in one phase only, with its exit code; the others end workers at most."""


@pytest.fixture(scope="module")
def ray_tmp() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="gd-", dir="/tmp", ignore_cleanup_errors=True) as folder:
        yield folder


def tensors(run: Path) -> dict[str, str]:
    """Return the SHA-256 of every file of tensors in a run's newest checkpoint."""
    files = read_manifest(str(run / checkpoint_names(str(run))[0]), ["checkpoint"]).files
    return {name: str(file) for name, file in files.items() if name.endswith(".safetensors")}


def finish(cwd: Path, env: dict[str, str], *length: str, timeout_s: float = 300.0) -> dict[str, str]:
    """Train to the end and return the tensors."""
    with command(*TRAIN, *length, cwd=cwd, env=env) as running:
        assert running.process.wait(timeout_s) == 0, running.said()
    return tensors(cwd / "runs/digits")


@pytest.fixture(scope="module")
def short(ray_tmp: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tensors of a short run that nothing has disturbed."""
    return finish(tmp_path_factory.mktemp("short"), environment(ray_tmp), *SHORT)


@pytest.fixture(scope="module")
def long(ray_tmp: str, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The tensors of a longer one."""
    return finish(tmp_path_factory.mktemp("long"), environment(ray_tmp), *LONG)


@pytest.mark.parametrize("phase", ["data", "step", "save"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_run_recovers_or_ends_with_a_sentence_and_has_the_bits_of_one_that_nothing_disturbed(
    kind: str,
    phase: str,
    chaos: Chaos,
    ray_tmp: str,
    short: dict[str, str],
    tmp_path: Path,
) -> None:
    flag, runs = tmp_path / "flag", tmp_path / "runs"
    env = {**environment(ray_tmp), "PYTHONPATH": str(Path(inject.__file__).parent)}
    env |= {"FAULT": f"{phase}:{kind}:{flag}", "FAULT_DISK": str(runs)}
    timeout = ["scale.collective_timeout_s=10", "storage.max_outage_s=10"] if kind == "hang" else []
    with small_disk(runs, 65536) if kind == "disk" else nullcontext():
        with command(*TRAIN, *SHORT, *timeout, cwd=tmp_path, env=env) as running:
            wait_until(lambda: flag.exists() or running.process.poll() is not None)
            assert flag.exists(), running.said()
            began = time.monotonic()
            if kind in TO_THE_COMMAND:
                to = os.kill if kind.startswith("one") else os.killpg
                to(running.process.pid, TO_THE_COMMAND[kind])
            code = running.process.wait(RECOVERY_S)
            seconds = time.monotonic() - began
            said = running.said()
            assert "Traceback" not in said
            assert code == ENDS.get(f"{kind} {phase}", ENDS.get(kind, 0)), said
            assert running.left_over() == []
        assert not (runs / "digits" / LOCK_FILE).exists()
        (runs / "filler").unlink(missing_ok=True)
        assert finish(tmp_path, environment(ray_tmp), *SHORT) == short
    chaos.keep(seconds=round(seconds, 1), exit_code=code)


def test_a_run_whose_processes_are_killed_at_random_loses_nothing(
    chaos: Chaos, ray_tmp: str, long: dict[str, str], tmp_path: Path
) -> None:
    wanted = chaos.rounds(3, 20)
    env, run = environment(ray_tmp), tmp_path / "runs/digits"
    killed: list[str] = []
    while len(killed) < wanted:
        with command(*TRAIN, *LONG, cwd=tmp_path, env=env) as running:
            while running.process.poll() is None and len(killed) < wanted:
                lines = _lines(run)
                wait_until(lambda: _lines(run) > lines or running.process.poll() is not None)  # noqa: B023
                time.sleep(chaos.random.uniform(0.0, 3.0))
                kind = chaos.random.choice(["worker", "raylet", "command"])
                if running.process.poll() is None and (victim := _process(running, kind)):
                    before = _newest(run)
                    victim.kill()
                    killed.append(kind)
                    if kind != "worker":
                        running.process.wait(RECOVERY_S)
                    assert _newest(run) >= before
            assert "Traceback" not in running.said()
        assert running.left_over(90) == []
    assert finish(tmp_path, env, *LONG) == long
    shutil.rmtree(run)
    chaos.keep(**{f"{kind}s": killed.count(kind) for kind in ("worker", "raylet", "command")})


def _lines(run: Path) -> int:
    path = run / "metrics.jsonl"
    return len(path.read_bytes().splitlines()) if path.exists() else 0


def _newest(run: Path) -> str:
    return max(checkpoint_names(str(run)), default="") if run.exists() else ""


def _process(running: Command, kind: str) -> psutil.Process | None:
    if kind == "command":
        return psutil.Process(running.process.pid)
    name = {"worker": "ray::RayTrainWorker", "raylet": "raylet"}[kind]
    return next((one for one in running.family() if one.name().startswith(name[:15])), None)


@pytest.mark.timeout(6 * 3600)
def test_a_command_whose_workers_are_killed_for_hours_trains_as_if_nothing_was_and_leaks_nothing(
    chaos: Chaos, ray_tmp: str, tmp_path: Path
) -> None:
    env = environment(ray_tmp)
    length = [f"train.kimg={os.environ.get('SOAK_KIMG', '4000')}", "eval.every_kimg=20"]
    (tmp_path / "undisturbed").mkdir()
    undisturbed = finish(tmp_path / "undisturbed", env, *length, timeout_s=2 * 3600)
    seen: list[dict[str, float]] = []
    with command(*TRAIN, *length, cwd=tmp_path, env=env) as running:
        run = tmp_path / "runs/digits"
        while running.process.poll() is None:
            lines = _lines(run)
            wait_until(lambda: _lines(run) > lines or running.process.poll() is not None, 900)  # noqa: B023
            with suppress(subprocess.TimeoutExpired):
                running.process.wait(chaos.random.uniform(30.0, 90.0))
            if running.process.poll() is None and (victim := _process(running, "worker")):
                seen.append(_held(running))
                victim.kill()
        assert running.process.returncode == 0, running.said()
    assert curve(run) == curve(tmp_path / "undisturbed/runs/digits") != {}
    assert tensors(run) == undisturbed
    first, last = seen[min(2, len(seen) - 1)], seen[-1]
    growth = {name: last[name] / first[name] - 1 for name in first}
    assert growth["driver_rss"] < 0.02
    assert growth["worker_rss"] < 0.02
    assert last["files"] <= first["files"]
    assert last["processes"] <= first["processes"]
    chaos.keep(kills=len(seen), **{name: f"{value:+.1%}" for name, value in growth.items()})


def curve(run: Path) -> dict[int, float]:
    """Return the distances of a run by images."""
    return {one["images"]: one["fd_digits"] for one in read_records(str(run)) if "fd_digits" in one}


def _held(running: Command) -> dict[str, float]:
    """Return the memory, in bytes, of a command and its largest worker, its open files and its processes."""
    driver, family = psutil.Process(running.process.pid), running.family()
    workers = [one.memory_info().rss for one in family if one.name().startswith("ray::RayTrainWo")]
    return {
        "driver_rss": driver.memory_info().rss,
        "worker_rss": max(workers, default=0),
        "files": driver.num_fds(),
        "processes": len(family),
    }
