"""Early stopping: a run ends when its distance is low enough, or no longer falls by more than its noise."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Literal

from gan_dist.config import EmaConfig, EvalConfig

INCONCLUSIVE = 0.013
"""Relative difference between two Frechet distances below which neither is better. The distance's own
coefficient of variation is 1 to 2 %."""
TARGET_EVALUATIONS = 2
"""Evaluations, one after another, that have to reach `eval.target`: a single one may be low by chance."""

EndKey = Literal["eval.target", "eval.patience"]
"""Key that ends a run before its last image."""


@dataclass
class DistanceHistory:
    """Distances of a run's evaluations so far."""

    extractor: str = ""
    """SHA-256 of the extractor; distances of other extractors are not comparable."""
    spread: float | None = None
    """Relative standard deviation of the distance over sets of latents; None before it is measured."""
    values: list[tuple[int, float]] = field(default_factory=list)
    """Images seen, and the distance then; oldest first."""

    def ended_by(self, settings: EvalConfig, ema: EmaConfig) -> EndKey | None:
        """Return the key that ends the run after these evaluations, or None if it goes on."""
        target, patience, spread = settings.target, settings.patience, self.spread
        last = [distance for _, distance in self.values[-TARGET_EVALUATIONS:]]
        if target is not None and len(last) == TARGET_EVALUATIONS and all(d <= target for d in last):
            return "eval.target"
        if patience is None or spread is None:
            return None
        warm_up = warm_up_images(ema)
        stops = should_stop(self.values, patience=patience, spread=spread, warm_up=warm_up)
        return "eval.patience" if stops else None


def warm_up_images(ema: EmaConfig) -> int:
    """Return the images after which the ramp no longer limits the half-life of the averaged generator.

    Until then the average, whose images are measured, still contains the initial weights. A half-life that
    goes by a schedule counts as it is at the start, where these are.
    """
    start = ema.half_life_start_kimg
    return round(1000 * (ema.half_life_kimg if start is None else start) / ema.ramp_up)


def threshold(spread: float) -> float:
    """Return the smallest relative improvement between two measurements that counts, at least 0.013.

    It is twice `spread`, the relative standard deviation of the distance between draws of latents. A spread
    that is not finite (the evaluation failed) counts as 0.
    """
    return max(INCONCLUSIVE, 2 * spread) if math.isfinite(spread) else INCONCLUSIVE


def should_stop(values: Sequence[tuple[int, float]], *, patience: int, spread: float, warm_up: int) -> bool:
    """Return whether the last `patience` evaluations are no better than the `patience` before them.

    The median has to fall by more than threshold(spread) / sqrt(patience), because the noise of a median
    falls with that root. So a slow decay adds up over `patience` evaluations, a single lucky value sets no
    mark for later ones, and spikes in less than half of the evaluations hardly count. A run of constant
    distance stops after 2 `patience` evaluations.

    Args:
        values: The whole history, oldest first: images seen, and the distance (lower is better) then. A
            distance that is not finite is a failed evaluation, and worse than all others.
        patience: Evaluations, at least 1. With few of them a slow decay looks like noise: at a spread of
            1.5 %, a sixth of the whole run's evaluations is enough (by test).
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
    # Written so that two infinite medians are no progress.
    return not last < before * (1 - threshold(spread) / math.sqrt(patience))
