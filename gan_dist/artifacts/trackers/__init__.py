"""Trackers that follow runs and searches: MLflow and Weights & Biases, each from a process of its own.

The process reads what the run has written to its folder, at the tracker's pace, so that a tracker which hangs
costs the run nothing (docs/decisions). Rank 0 writes the folder, and TensorBoard's events, itself.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Self

from gan_dist.core import storage
from gan_dist.core.storage.redaction import holds_secret

State = Literal["running", "finished", "stopped early", "failed", "interrupted"]
NAMES = ("mlflow", "wandb")
END_S = 10.0
"""Seconds for which a tracker may take nothing at the end of a run, before what is left is given up."""
KILL_S = 140.0
"""Seconds after which the process of a tracker is ended that does not end itself."""
QUEUE = 10_000
"""Changes of runs' states that wait for a tracker's process; the process takes them at once."""
_PROCESS = "gan_dist.artifacts.trackers.process"


class Trackers:
    """The trackers in `names` that follow a run or a search while this is entered.

    A run has the key "", which is its folder's own; the trials of a search are nested below it by their keys.
    A run that goes on is continued where its last record was logged. An exception in the body makes the run's
    state `interrupted` or `failed`.

    Args:
        names: Values of `log.to`.
        uri: The folder of the run or search; what was sent is noted there, in `trackers/`.
        name: Its name.
        project: MLflow's experiment and W&B's project; None: as the environment says.
        warn: Called with a sentence for the user, in other threads.
    """

    def __init__(
        self, names: Sequence[str], uri: str, name: str, project: str | None, warn: Callable[[str], None]
    ) -> None:
        begin = {
            "uri": uri,
            "name": name,
            "project": project,
            "options": asdict(storage.options()),
            "end_s": END_S,
        }
        chosen = [tracker for tracker in NAMES if tracker in names]
        self._processes = [_Process(tracker, {"tracker": tracker, **begin}, warn) for tracker in chosen]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Send the end, and wait for the trackers, those that take nothing for `END_S`."""
        if kind is not None:
            self.update("", "failed" if issubclass(kind, Exception) else "interrupted")
        for process in self._processes:
            process.end()
        for process in self._processes:
            process.wait()

    def update(
        self,
        key: str,
        state: State,
        *,
        uri: str = "",
        settings: Mapping[str, object] | None = None,
        figures: Mapping[str, float] | None = None,
        reason: str = "",
    ) -> None:
        """Set the state of a run; the call returns at once.

        Args:
            key: "" for the run or search itself, a trial's number otherwise.
            state: Its state.
            uri: The folder with its records; none for a search.
            settings: Configuration by dotted key; values that hold a password are left out.
            figures: A record of a search, with the key `images`.
            reason: Why it failed.
        """
        safe = {name: _text(value) for name, value in (settings or {}).items()}
        message = {"key": key, "state": state, "uri": uri, "settings": safe, "reason": reason}
        for process in self._processes:
            process.send({**message, "figures": dict(figures or {})})


def numbers(record: Mapping[str, Any]) -> dict[str, float]:
    """Return the numbers of a record that are drawn as curves over its images, with these."""
    is_drawn = {key: isinstance(value, float) and key != "kimg" for key, value in record.items()}
    return {key: value for key, value in record.items() if is_drawn[key] or key == "images"}


def _text(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, default=str)
    return "..." if holds_secret(text) else text


class _Process:
    """The process of one tracker; nothing here waits for it but `wait`."""

    def __init__(self, name: str, begin: Mapping[str, Any], warn: Callable[[str], None]) -> None:
        self._name, self._warn = name, warn
        package = str(Path(__file__).parents[3])
        path = os.pathsep.join(filter(None, [package, os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", _PROCESS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
            start_new_session=True,  # an interrupt from the keyboard is the run's, which ends this process
        )
        self._messages: queue.Queue[Mapping[str, Any] | None] = queue.Queue(QUEUE)
        self._dropped = 0
        self.send(begin)
        self._threads = [
            threading.Thread(target=one, name=f"{name} tracker", daemon=True)
            for one in (self._write, self._read)
        ]
        for thread in self._threads:
            thread.start()

    def send(self, message: Mapping[str, Any] | None) -> None:
        """Send a message, None for the end; one that finds no place is dropped and counted."""
        try:
            self._messages.put_nowait(message)
        except queue.Full:
            self._dropped += 1
            if self._dropped == 1:
                self._warn(
                    f"the process of log.to={self._name} does not read: what happens now is not logged"
                )

    def end(self) -> None:
        self.send(None)

    def wait(self) -> None:
        """Wait for the end of the process; end it where it takes too long."""
        try:
            self._process.wait(KILL_S)
        except subprocess.TimeoutExpired:
            self._warn(f"the process of log.to={self._name} did not end, and was ended")
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)  # also what a tracker's library has started
        self._process.wait()
        self._threads[1].join(1)
        if self._dropped:
            self._warn(f"log.to={self._name}: {self._dropped} changes of state were dropped")

    def _write(self) -> None:
        with suppress(BrokenPipeError, ValueError):
            assert self._process.stdin is not None
            while (message := self._messages.get()) is not None:
                self._process.stdin.write(json.dumps(message).encode() + b"\n")
                self._process.stdin.flush()
            self._process.stdin.close()

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._warn(line.decode(errors="replace").strip())
