"""Signals that end a command, sent to processes that hold a folder's lock and are prepared to stop."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gan_dist.core.interrupts import INTERRUPTED, SIGNALS
from gan_dist.core.storage.lock import LOCK_FILE

WORK = """
import signal, sys, time
from gan_dist.core import interrupts
from gan_dist.core.storage.lock import folder_lock

folder, prepared, interrupts.FORCE_S = sys.argv[1], sys.argv[2] == "prepared", float(sys.argv[3])

def say(word):
    print(word, flush=True)

def work():
    say("working")
    while True:
        time.sleep(0.01)

def cleanup():
    say("cleaning")
    assert sys.stdin.readline()

def main():
    with folder_lock(folder):
        try:
            if not prepared:
                work()
            with interrupts.stop_requests() as requested:
                say("working")
                while not requested.is_set():
                    time.sleep(0.01)
                say("stopping")
                if sys.stdin.readline().strip() == "stopped":
                    return
        finally:
            cleanup()

try:
    with interrupts.interruptible():
        main()
except KeyboardInterrupt:
    sys.exit(interrupts.INTERRUPTED)
"""


@pytest.fixture(autouse=True)
def _no_nohup() -> Iterator[None]:
    """What these tests start does not ignore SIGHUP, even if they do themselves."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@contextmanager
def working(folder: Path, mode: str, force_s: float = 60.0) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", WORK, str(folder), mode, str(force_s)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert said(process) == "working"
        assert (folder / LOCK_FILE).exists()
        yield process
    finally:
        process.kill()
        process.communicate()


def said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_a_command_in_order_and_more_of_them_disturb_nothing(
    number: signal.Signals, tmp_path: Path
) -> None:
    with working(tmp_path, "at once") as process:
        process.send_signal(number)
        assert said(process) == "cleaning"
        for again in SIGNALS:
            process.send_signal(again)
        out, _ = process.communicate("cleaned\n", timeout=60)
    assert out == ""
    assert process.returncode == INTERRUPTED
    assert not (tmp_path / LOCK_FILE).exists()


def test_where_a_stop_is_prepared_the_first_signal_asks_for_it_and_the_second_does_not_wait(
    tmp_path: Path,
) -> None:
    with working(tmp_path, "prepared") as process:
        process.send_signal(signal.SIGTERM)
        assert said(process) == "stopping"
        process.send_signal(signal.SIGINT)
        assert said(process) == "cleaning"
        process.communicate("cleaned\n", timeout=60)
    assert process.returncode == INTERRUPTED
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_stop_that_is_done_is_not_undone_by_another_signal(tmp_path: Path) -> None:
    with working(tmp_path, "prepared") as process:
        process.send_signal(signal.SIGINT)
        assert said(process) == "stopping"
        assert process.stdin is not None
        process.stdin.write("stopped\n")
        process.stdin.flush()
        assert said(process) == "cleaning"
        process.send_signal(signal.SIGINT)
        process.communicate("cleaned\n", timeout=60)
    assert process.returncode == 0
    assert not (tmp_path / LOCK_FILE).exists()


def test_a_command_that_does_not_come_to_its_end_is_ended_by_one_more_signal(tmp_path: Path) -> None:
    with working(tmp_path, "at once", force_s=0.0) as process:
        process.send_signal(signal.SIGINT)
        assert said(process) == "cleaning"
        process.send_signal(signal.SIGINT)
        assert process.wait(60) == INTERRUPTED


def test_what_runs_under_nohup_outlives_its_terminal_and_not_the_other_signals(tmp_path: Path) -> None:
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGHUP, signal.SIGINT)}
    try:
        with working(tmp_path, "prepared") as process:
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGINT)  # ignored too, since a script has started it
            assert said(process) == "stopping"
            process.send_signal(signal.SIGHUP)
            process.send_signal(signal.SIGTERM)
            assert said(process) == "cleaning"
            process.communicate("cleaned\n", timeout=60)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    assert process.returncode == INTERRUPTED


POSTPONED = """
import os, signal, sys
from gan_dist.core.interrupts import interruptible, postponed

with interruptible():
    try:
        with postponed(), postponed():
            for number in (signal.SIGTERM, signal.SIGINT):
                os.kill(os.getpid(), number)
            print("undisturbed", flush=True)
        print("not reached")
    except KeyboardInterrupt:
        os.kill(os.getpid(), signal.SIGTERM)  # it ends already
        print("interrupted", flush=True)
"""


def test_a_signal_waits_until_what_must_not_be_interrupted_has_ended() -> None:
    done = subprocess.run([sys.executable, "-c", POSTPONED], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "undisturbed\ninterrupted\n", "")
