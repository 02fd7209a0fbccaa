"""A Ray of this process's own, which signals for the command do not end.

It replaces private parts of Ray 2.60 while Ray starts; the tests that end a command by signals fail with a
Ray that has others.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from typing import Any

import psutil
from ray._private import node, ray_constants, services, utils

from gan_dist.core.interrupts import postponed


@contextmanager
def keep_handlers() -> Iterator[None]:
    """Let Ray start or join without handlers of signals of its own, and without being interrupted.

    One of them is set in Python, another in C++. An interrupted start leaves Ray in a state in which its
    shutdown ends by a segmentation fault.
    """
    with (
        postponed(),
        _replaced(utils, "set_sigterm_handler", lambda _handler: None),
        _replaced(ray_constants, "RAY_DISABLE_FAILURE_SIGNAL_HANDLER", True),
    ):
        yield


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
def few_processes() -> Iterator[None]:
    """Let Ray start without what a cluster of one process on one machine has no use for.

    These are its dashboard, the monitor of its autoscaler and the reader of its log files. Each is a Python
    process that imports Ray while the workers want the CPUs.
    """
    with ExitStack() as stack:
        for name in ("start_api_server", "start_monitor", "start_log_monitor"):
            stack.enter_context(_replaced(node.Node, name, lambda _node, **_options: None))
        yield


def kill_local_processes() -> None:
    """Kill what Ray has started for this process, and what that has started.

    Ray itself forgets those whose node has died.
    """
    sessions = {process.pid for process in _processes}
    for process in psutil.process_iter() if sessions else ():
        with suppress(OSError, psutil.Error):
            if os.getsid(process.pid) in sessions:
                process.kill()
    _processes.clear()


def has_died() -> bool:
    """Return whether a process has ended that Ray has started for this one."""
    return any(process.poll() is not None for process in _processes)


@contextmanager
def _replaced(owner: object, name: str, value: Any) -> Iterator[None]:
    before = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, before)


class _Process(subprocess.Popen[bytes]):
    def __init__(self, command: list[str], *, preexec_fn: Callable[[], None], **options: Any) -> None:
        def block_signals() -> None:
            signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGHUP})
            preexec_fn()

        super().__init__(command, preexec_fn=block_signals, start_new_session=True, **options)
        _processes.append(self)

    def terminate(self) -> None:
        """Kill the process, which blocks SIGTERM, and those of its group: a node's has agents."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)


_processes: list[_Process] = []
"""What Ray has started; each has a session of its own, in which is what it starts."""
