"""What a benchmark was run on, and where its figures are kept."""

from __future__ import annotations

import json
import os
import platform
import shlex
import sys
from collections.abc import Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path

import torch

from gan_dist.core import host

VERSIONS = ("gan-dist", "torch", "ray", "pyarrow", "numpy")


def environment() -> dict[str, object]:
    """Return the hardware, the date, the versions and the command."""
    return {
        "date": date.today().isoformat(),
        "command": shlex.join(["python", "-m", "benchmarks", *sys.argv[1:]]),
        "cpu": host.processor(),
        "cores": host.cores(),
        "memory_gib": round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        "gpu": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "python": platform.python_version(),
        **{name: version(name) for name in VERSIONS},
    }


def keep(folder: str, figures: Mapping[str, object]) -> Path:
    """Add one run's figures to `<folder>/<name>.jsonl`, and return that path."""
    path = Path(folder) / f"{figures['name']}.jsonl"
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({**figures, "environment": environment()}) + "\n")
    return path
