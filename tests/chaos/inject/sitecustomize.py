"""One fault in one worker of a run. Python imports this file by itself where its folder is in PYTHONPATH.

FAULT is `PHASE:KIND:FILE`: the worker of rank 1 (in the phase `save` that of rank 0, which writes) makes FILE
and then suffers the fault, at its CALL-th call of the phase, unless FILE is there already.
"""

from __future__ import annotations

import ctypes
import importlib.abc
import importlib.machinery
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

CALLS = {"data": 20, "step": 20, "save": 2}
PHASE, KIND, FILE = os.environ.get("FAULT", "::").split(":", 2)
MODULES = {"gan_dist.training.loop": ("data", "step"), "gan_dist.training.checkpoint": ("save",)}


def fault() -> None:
    """Do what KIND says to this process; signals for the command are sent by the test that sees FILE."""
    own = os.getpid()
    if KIND in ("SIGKILL", "SIGTERM", "SIGSEGV"):
        os.kill(own, getattr(signal, KIND))
        time.sleep(5)
    elif KIND == "SIGSTOP":
        subprocess.Popen(["sh", "-c", f"sleep 30; kill -CONT {own}"], start_new_session=True)
        os.kill(own, signal.SIGSTOP)
    elif KIND == "segfault":
        ctypes.string_at(0)
    elif KIND == "exception":
        raise RuntimeError("a fault")
    elif KIND == "hang":
        time.sleep(600)
    elif KIND == "memory":
        import torch

        torch.empty(2**50)
    elif KIND == "raylet":
        os.kill(os.getppid(), signal.SIGKILL)
        time.sleep(5)
    elif KIND == "disk":
        fill(Path(os.environ["FAULT_DISK"]))


def fill(folder: Path) -> None:
    """Write until the disk is full."""
    with (folder / "filler").open("wb", buffering=0) as file:
        for size in (2**20, 2**12):
            try:
                while True:
                    file.write(bytes(size))
            except OSError:
                continue


def faulty(real: Callable[..., Any]) -> Callable[..., Any]:
    """Return a function that suffers the fault once."""
    calls = 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal calls
        import torch.distributed as dist

        calls += 1
        rank = dist.get_rank() if dist.is_initialized() else None
        if calls == CALLS[PHASE] and rank == (0 if PHASE == "save" else 1) and not Path(FILE).exists():
            Path(FILE).touch()
            fault()
        return real(*arguments, **options)

    return call


class Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Changes the function of PHASE in its module."""

    def __init__(self, name: str) -> None:
        self.name, self.real = name, importlib.machinery.PathFinder()

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the module's own spec, with this loader."""
        if fullname != self.name:
            return None
        spec = self.real.find_spec(fullname, path, target)
        assert spec is not None
        assert spec.loader is not None
        self.loader, spec.loader = spec.loader, self
        return spec

    def exec_module(self, module: ModuleType) -> None:
        """Run the module, then change it."""
        self.loader.exec_module(module)
        place: Any = module.Step if PHASE == "step" else module
        function = {"data": "to_batch", "step": "discriminator_phase", "save": "write_folder"}[PHASE]
        setattr(place, function, faulty(getattr(place, function)))


for module_name, phases in MODULES.items():
    if PHASE in phases:
        sys.meta_path.insert(0, Finder(module_name))
