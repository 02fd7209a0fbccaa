"""Two processes on one folder: one works, the other is told; what a killed one leaves holds nobody up."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gan_dist.core import storage
from gan_dist.core.errors import BusyError, StorageError
from gan_dist.core.storage import lock
from gan_dist.core.storage.lock import LOCK_FILE, folder_lock, lock_holder

CODE = """
import sys, time
from gan_dist.core.errors import BusyError, StorageError
from gan_dist.core.storage.lock import folder_lock
try:
    with folder_lock(sys.argv[1]):
        print("in", flush=True)
        time.sleep(float(sys.argv[2]))
except BusyError:
    print("refused", flush=True)
"""


def start(folder: str, seconds: float) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", CODE, folder, str(seconds)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def first_word(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_folder_is_refused_while_its_process_lives_and_free_at_once_when_it_is_killed(
    tmp_path: Path,
) -> None:
    folder = str(tmp_path / "run")
    process = start(folder, 600)
    assert first_word(process) == "in"
    with (
        pytest.raises(BusyError, match=rf"run is being worked on by process {process.pid} on"),
        folder_lock(folder),
    ):
        pass
    assert (lock_holder(folder) or "").startswith(f"process {process.pid} on ")
    assert (lock_holder(folder) or "").endswith(": at work")
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (tmp_path / "run" / LOCK_FILE).exists()
    assert (lock_holder(folder) or "").endswith(": killed")
    assert lock_holder(str(tmp_path / "other")) is None
    waits: list[str] = []
    with (
        folder_lock(folder, waits.append),
        pytest.raises(BusyError, match=f"process {os.getpid()} "),
        folder_lock(folder),
    ):
        pass
    assert waits == []
    assert not (tmp_path / "run").exists()


def test_of_several_that_begin_at_once_one_works(tmp_path: Path) -> None:
    processes = [start(str(tmp_path), 600) for _ in range(3)]
    try:
        assert sorted(map(first_word, processes)) == ["in", "refused", "refused"]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def left_elsewhere(folder: str, number: int = 0) -> None:
    told = {"id": "other", "host": "far", "machine": "other", "pid": 1, "since": "noon", "renewed": number}
    storage.write_bytes(storage.join(folder, LOCK_FILE), json.dumps(told).encode())


def test_what_a_process_of_another_machine_left_is_taken_over_when_nobody_renews_it(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "STALE_S", 0.3)
    folder = storage.join(bucket, "runs", "one")
    for content in (None, b"{half"):
        left_elsewhere(folder)
        if content is not None:
            storage.write_bytes(storage.join(folder, LOCK_FILE), content)
        waits: list[str] = []
        with folder_lock(folder, waits.append):
            assert json.loads(storage.read_bytes(storage.join(folder, LOCK_FILE)))["pid"] == os.getpid()
        assert ["was left by" in one for one in waits] == [True]
        assert storage.list_names(folder) == []


def test_a_process_of_another_machine_that_renews_is_not_disturbed(
    bucket: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "STALE_S", 30.0)
    left_elsewhere(bucket)
    renewal = threading.Timer(0.5, left_elsewhere, [bucket, 1])
    renewal.start()
    with pytest.raises(BusyError, match="process 1 on far, since noon"), folder_lock(bucket):
        pass
    assert json.loads(storage.read_bytes(storage.join(bucket, LOCK_FILE)))["renewed"] == 1


def test_a_lock_is_renewed_while_its_process_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "RENEW_S", 0.05)
    renewals: set[object] = set()
    with folder_lock(str(tmp_path)):
        deadline = time.monotonic() + 30
        while len(renewals) < 3:
            renewals.add(json.loads((tmp_path / LOCK_FILE).read_text()).get("renewed"))
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture(params=["in front", "in the background of a script"])
def ignores_interrupts(request: pytest.FixtureRequest) -> Iterator[None]:
    ignored = request.param != "in front"
    before = signal.signal(signal.SIGINT, signal.SIG_IGN if ignored else signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("ignores_interrupts")
def test_a_process_whose_folder_another_has_taken_over_is_interrupted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lock, "RENEW_S", 0.1)
    ends: list[str] = []

    def work() -> None:
        try:
            left_elsewhere(str(tmp_path))
            time.sleep(60)
        except KeyboardInterrupt:
            ends.append("interrupted")

    with pytest.raises(BusyError, match="process 1 on far"), folder_lock(str(tmp_path)):
        work()
    assert ends == ["interrupted"]
    assert json.loads((tmp_path / LOCK_FILE).read_text())["id"] == "other"


def test_a_folder_that_cannot_be_made_is_named_as_the_user_has_named_it(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with (
        pytest.raises(
            StorageError, match=f"^{tmp_path}/file/run cannot be written, .*; give another"
        ) as told,
        folder_lock(f"{tmp_path}/file/run"),
    ):
        pass
    assert f".{LOCK_FILE}" not in str(told.value)
    assert (tmp_path / "file").read_bytes() == b""
