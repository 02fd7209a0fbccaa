"""When a run stops early: its distance no longer falls, as far as the measurement's noise lets one see."""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import median

from gan_dist.config import EmaConfig

INCONCLUSIVE = 0.013
"""Relative difference between two Frechet distances below which neither is better. The distance's own
coefficient of variation is 1 to 2 %."""


def warm_up_images(ema: EmaConfig) -> int:
    """Return the images after which the average's half-life is no longer limited by its ramp.

    Until then the averaged generator, which is what is measured, is still forgetting its start.
    """
    return round(1000 * ema.half_life_kimg / ema.ramp_up)


def threshold(spread: float) -> float:
    """Return the relative improvement, at least 0.013, that counts between two single measurements.

    It is two standard deviations. `spread` is one: that of the distance between draws of latents, relative
    to the distance. One that is not finite (the evaluation failed) counts as 0.
    """
    return max(INCONCLUSIVE, 2 * spread) if math.isfinite(spread) else INCONCLUSIVE


def should_stop(values: Sequence[tuple[int, float]], *, patience: int, spread: float, warm_up: int) -> bool:
    """Return whether the last `patience` evaluations are no better than the `patience` before them.

    Medians are compared, and have to fall by more than threshold(spread) / sqrt(patience), because the noise
    of a median falls with that root. So a slow decay adds up over `patience` evaluations, a lucky value
    does not become the mark that later ones have to beat, and spikes in less than half of the evaluations
    hardly count. A run whose distance is constant stops after 2 `patience` evaluations.

    Args:
        values: The whole history, oldest first: images seen, and the distance (lower is better) then. One
            that is not finite is a failed evaluation, and as bad as can be.
        patience: Evaluations, at least 1. The smaller, the less a slow decay is told from noise: at a spread
            of 1.5 %, a sixth of the whole run's evaluations is enough (`tests/unit/test_patience.py`).
        spread: Relative standard deviation of the distance between draws of latents.
        warm_up: Images; evaluations before them are left out.

    Raises:
        ValueError: `patience` is less than 1.
    """
    if patience < 1:
        raise ValueError(f"patience must be at least 1, not {patience}")
    distances = [value if math.isfinite(value) else math.inf for images, value in values if images >= warm_up]
    if len(distances) < 2 * patience:
        return False
    before, last = median(distances[-2 * patience : -patience]), median(distances[-patience:])
    # Said this way round, two infinite medians are no progress.
    return not last < before * (1 - threshold(spread) / math.sqrt(patience))
