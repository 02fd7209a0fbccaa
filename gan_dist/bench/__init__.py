"""Benchmarks: ratios to a reference that is measured in the same run, recorded with what they were run on."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

NAMES = ("stream", "pack", "step")


def run(name: str, *, quick: bool = False) -> dict[str, object]:
    """Run one benchmark and return its figures.

    Args:
        name: One of `NAMES`.
        quick: Take sizes that show that it runs, not how fast.
    """
    figures: Mapping[str, object] = importlib.import_module(f"gan_dist.bench.{name}").run(quick=quick)
    return {"name": name, **figures}
