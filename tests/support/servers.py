"""Servers in processes of their own, for tests."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

LIMIT_S = 180.0
"""Seconds in which a server answers on a busy machine."""


@contextmanager
def server(
    command: Sequence[str],
    folder: Path,
    answers: Callable[[], bool],
    environment: Mapping[str, str] | None = None,
) -> Iterator[None]:
    """Run a server in a folder while this is entered, from when it `answers` on."""
    log = folder / "server.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command,
            cwd=folder,
            stdout=output,
            stderr=output,
            start_new_session=True,
            env={**os.environ, **(environment or {})},
        )
    try:
        wait_for(answers, [process], [log])
        yield
    finally:
        os.killpg(process.pid, signal.SIGTERM)
        process.wait(60)


def wait_for(
    answers: Callable[[], bool], processes: Sequence[subprocess.Popen[bytes]], logs: Sequence[Path]
) -> None:
    """Wait until servers answer; raise a RuntimeError with their logs if one ends, or none does in time."""
    deadline = time.monotonic() + LIMIT_S
    while not answers():
        if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
            raise RuntimeError("\n".join(["the server did not start", *(log.read_text() for log in logs)]))
        time.sleep(0.1)
