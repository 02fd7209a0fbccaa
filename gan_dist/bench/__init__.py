"""Benchmarks: ratios to a reference that is measured in the same run, recorded with what they were run on."""

from __future__ import annotations

import importlib
from collections.abc import Mapping

from gan_dist.errors import GanDistError

NAMES = ("stream", "pack", "step", "modes", "metrics", "search")


def run(name: str, *, quick: bool = False, everything: bool = False, real: bool = False) -> dict[str, object]:
    """Run one benchmark and return its figures.

    Args:
        name: One of `NAMES`.
        quick: Take sizes that show that it runs, not how fast.
        everything: Also measure what takes long; of those that are here, `modes` has such a part.
        real: Measure real runs in place of simulated ones; of those that are here, `search` has both.

    Raises:
        GanDistError: this one has no such part.
    """
    for option, wanted, of in (("--all", everything, "modes"), ("--real", real, "search")):
        if wanted and name != of:
            raise GanDistError(f"{option} is a part of bench {of}, which bench {name} has not; leave it out")
    benchmark = importlib.import_module(f"gan_dist.bench.{name}")
    more = {part: True for part, wanted in {"everything": everything, "real": real}.items() if wanted}
    figures: Mapping[str, object] = benchmark.run(quick=quick, **more)
    return {"name": name, **figures}
