"""Commands that are ended by signals: started in a process group of their own, and what is left of them."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil

from tests.support.heads import BIN


class Command:
    """A running command, and the processes that it has started; its standard error is in a file."""

    def __init__(self, process: subprocess.Popen[str], log: Path | None = None) -> None:
        self.process, self.log = process, log
        self._family: dict[int, psutil.Process] = {}

    def said(self) -> str:
        """Return its standard error so far."""
        return self.log.read_text() if self.log else ""

    def wait_for(self, text: str, timeout_s: float = 180.0) -> None:
        """Wait until its standard error has a text; fail if it ends before."""
        wait_until(lambda: text in self.said() or self.process.poll() is not None, timeout_s)
        assert text in self.said(), self.said()

    def family(self) -> list[psutil.Process]:
        """Return the processes that it has started, directly or through others, and that still run."""
        with suppress(psutil.NoSuchProcess):
            for one in psutil.Process(self.process.pid).children(recursive=True):
                self._family[one.pid] = one
        return [one for one in self._family.values() if one.is_running() and one.status() != "zombie"]

    def signal_group(self, number: signal.Signals) -> None:
        """Send a signal to its process group, as a terminal, `timeout` and batch systems do."""
        self.family()
        os.killpg(self.process.pid, number)

    def signal_all(self, number: signal.Signals) -> None:
        """Send a signal to it and all that it has started, as systemd does."""
        for one in [*self.family(), psutil.Process(self.process.pid)]:
            with suppress(psutil.NoSuchProcess):
                one.send_signal(number)

    def left_over(self, timeout_s: float = 20.0) -> list[psutil.Process]:
        """Return those of its family that outlive it by so long."""
        deadline = time.monotonic() + timeout_s
        while (left := self.family()) and time.monotonic() < deadline:
            time.sleep(0.1)
        return left


def wait_until(condition: Callable[[], bool], timeout_s: float = 180.0) -> None:
    """Wait until a condition holds."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@contextmanager
def command(*arguments: str, cwd: Path, **options: Any) -> Iterator[Command]:
    """Start `gan-dist`; `options` are Popen's. What still runs at the end is killed."""
    log = cwd / f"stderr-{time.monotonic_ns()}.log"
    with log.open("w") as stderr:
        process = subprocess.Popen(
            [str(BIN / "gan-dist"), *arguments],
            cwd=cwd,
            process_group=0,
            text=True,
            **{"stderr": stderr, "stdout": subprocess.DEVNULL, **options},
        )
    running = Command(process, log)
    try:
        yield running
    finally:
        for one in running.family():
            with suppress(psutil.NoSuchProcess):
                one.kill()
        process.kill()
        process.wait()
