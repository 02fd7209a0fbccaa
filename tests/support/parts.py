"""Parts of an evaluation that tell who did them, or kill who does them: where Ray's processes find them."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch

from gan_dist.evaluation.tasks import EvaluationWorker


@dataclass(frozen=True)
class Numbered:
    """Returns its number and its process's; the first process to come to number 3 is killed by it."""

    number: int
    folder: Path
    images: int = 1

    def __call__(self, worker: EvaluationWorker) -> tuple[int, int]:
        once = self.folder / "killed"
        if self.number == 3 and not once.exists():
            once.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(0.05 * (self.number % 3))
        return self.number, os.getpid()


@dataclass(frozen=True)
class Held:
    """Says that it has begun, and returns its number when it is let go."""

    number: int
    folder: Path
    images: int = 1

    def __call__(self, worker: EvaluationWorker) -> int:
        (self.folder / f"begun-{self.number}").touch()
        while not (self.folder / "go").exists():
            time.sleep(0.05)
        return self.number


def let_go(folder: Path, begun: int, first: Callable[[], None] = lambda: None) -> threading.Thread:
    """Let all `Held` of a folder go as soon as so many have begun, and `first` is done; return the thread."""

    def wait() -> None:
        while len(list(folder.glob("begun-*"))) < begun:
            time.sleep(0.05)
        first()
        (folder / "go").touch()

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@dataclass(frozen=True)
class Deadly:
    """Kills every process that comes to it."""

    images: int = 1

    def __call__(self, worker: EvaluationWorker) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


@dataclass(frozen=True)
class Exhausting:
    """Runs out of a GPU's memory, and counts how often it is tried."""

    folder: Path
    images: int = 1

    def __call__(self, worker: EvaluationWorker) -> None:
        with (self.folder / "tried").open("a") as file:
            file.write("x")
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
