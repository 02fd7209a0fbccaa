"""Benchmarks: ratios to a reference that is measured in the same run, recorded with what they were run on."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

NAMES = ("stream", "pack", "step", "modes", "metrics", "search")


def run(name: str, *, quick: bool = False, everything: bool = False, real: bool = False) -> dict[str, object]:
    """Run one benchmark and return its figures.

    Args:
        name: One of `NAMES`.
        quick: Take sizes that show that it runs, not how fast.
        everything: Also measure what takes long; of those that are here, `modes` has such a part.
        real: Measure real runs in place of simulated ones; of those that are here, `search` has both.
    """
    benchmark = importlib.import_module(f"gan_dist.bench.{name}")
    asked = {"everything": everything and name == "modes", "real": real and name == "search"}
    more = {part: True for part, wanted in asked.items() if wanted}
    figures: Mapping[str, object] = benchmark.run(quick=quick, **more)
    return {"name": name, **figures}
