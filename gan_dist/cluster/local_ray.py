"""A Ray of this process's own, which signals for the command do not end.

It replaces private parts of Ray 2.60 while Ray starts; the tests that end a command by signals fail with a
Ray that has others.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from ray._private import services, utils

from gan_dist.core.interrupts import SIGNALS


@contextmanager
def keep_handlers() -> Iterator[None]:
    """Let Ray start or join, and undo its own handlers of signals, which would end this process.

    One of them is set in Python, another in C++, beneath Python's.
    """
    with _replaced(utils, "set_sigterm_handler", lambda _handler: None):
        yield
    if threading.current_thread() is threading.main_thread():
        for number in SIGNALS:
            signal.signal(number, signal.getsignal(number))


@contextmanager
def shielded_processes() -> Iterator[None]:
    """Let Ray start its processes where the signals that end a command do not end them.

    `timeout`, a terminal and a batch system send these to the command's process group, systemd to all that it
    has started. The workers would be gone before they could write a checkpoint. That Ray's processes die
    with the process that starts them, by whatever it ends, is Ray's own arrangement.
    """
    with _replaced(services, "ConsolePopen", _Process):
        yield


@contextmanager
def _replaced(module: ModuleType, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)


class _Process(subprocess.Popen[bytes]):
    def __init__(self, command: list[str], *, preexec_fn: Callable[[], None], **options: Any) -> None:
        def block_signals() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
            preexec_fn()

        super().__init__(command, preexec_fn=block_signals, start_new_session=True, **options)

    def terminate(self) -> None:
        """Kill the process, which blocks SIGTERM, and those of its group: a node's has agents."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)
