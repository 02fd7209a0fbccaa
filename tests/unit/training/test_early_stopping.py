"""Early stopping, on distances whose noise-free values are known."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_dist.config import EmaConfig, EvalConfig, OptimConfig
from gan_dist.training.early_stopping import DistanceHistory, should_stop, threshold, warm_up_images
from gan_dist.training.schedule import half_life

Curve = npt.NDArray[np.float64]
"""A run's distance at each of `HORIZON` evaluations."""
History = list[tuple[int, float]]

HORIZON = 100
EVERY = 50_000
WARM_UP = 4 * EVERY
"""That of the defaults."""
PATIENCE = 16
NOISE = 0.015
TIME = np.arange(1.0, HORIZON + 1)


def history(distances: Curve | list[float]) -> History:
    return [(EVERY * number, float(value)) for number, value in enumerate(distances, start=1)]


def stops(distances: Curve | list[float], patience: int, spread: float = NOISE, warm_up: int = 0) -> int:
    """After how many evaluations a run is stopped, or their number: it is asked after each."""
    values = history(distances)
    for count in range(1, len(values)):
        if should_stop(values[:count], patience=patience, spread=spread, warm_up=warm_up):
            return count
    return len(values)


def exponential(rng: np.random.Generator, first: float = 10, last: float = 60) -> Curve:
    """Within 2 % of its floor, 1, at an evaluation from `first` to `last`; starts at 2 to 31."""
    height, near = math.exp(rng.uniform(0, math.log(30))), rng.uniform(first, last)
    return 1 + height * np.exp(-TIME * math.log(height / 0.02) / near)


def power_law(rng: np.random.Generator, first: float = 10, last: float = 60) -> Curve:
    """The same with a power law: a slow tail."""
    height, near = math.exp(rng.uniform(0, math.log(30))), rng.uniform(first, last)
    return 1 + height * TIME ** -(math.log(height / 0.02) / math.log(near))


def two_phases(rng: np.random.Generator) -> Curve:
    """A fast fall, and a slow one of 10 to 50 % of the floor that is within 2 % at evaluation 30 to 60."""
    height, near = rng.uniform(0.1, 0.5), rng.uniform(30, 60)
    return exponential(rng, 5, 15) + height * np.exp(-TIME * math.log(height / 0.02) / near)


def rising(rng: np.random.Generator) -> Curve:
    """From evaluation 20 to 60 on 0.3 to 5 % an evaluation worse, or at once 1.5 to 10 times as bad."""
    base = exponential(rng, 10, 40) if rng.random() < 0.5 else power_law(rng, 10, 40)
    turn = rng.uniform(20, 60)
    if rng.random() < 2 / 3:
        return base * (1 + rng.uniform(0.003, 0.05) * np.maximum(0, TIME - turn))
    return np.where(turn < TIME, base * rng.uniform(1.5, 10), base)


def spikes(rng: np.random.Generator) -> Curve:
    """One to four spikes, 1.2 to 5 times as high, that decay with a time constant of 0.5 to 2 evaluations."""
    curve = exponential(rng)
    for _ in range(rng.integers(1, 5)):
        at, height, decay = rng.integers(5, 95), rng.uniform(0.2, 4), rng.uniform(0.5, 2)
        curve = curve * np.where(at <= TIME, 1 + height * np.exp(-(TIME - at) / decay), 1)
    return curve


def improving(rng: np.random.Generator) -> Curve:
    """At the last evaluation it still falls by 0.3 to 3.3 % an evaluation."""
    if rng.random() < 0.5:
        return TIME ** -rng.uniform(0.3, 1)
    return np.exp(-TIME / rng.uniform(30, 200)) + rng.uniform(0, 0.05)


FAMILIES: list[tuple[Callable[[np.random.Generator], Curve], int]] = [
    (exponential, 50),
    (power_law, 40),
    (two_phases, 30),
    (rising, 30),
    (spikes, 24),
    (improving, 26),
]


def curves(seed: int) -> list[tuple[str, Curve]]:
    """200 noise-free curves and their families, with floors over two orders of magnitude."""
    rng = np.random.default_rng(seed)
    return [
        (family.__name__, family(rng) * 10 ** rng.uniform(0, 2))
        for family, count in FAMILIES
        for _ in range(count)
    ]


@dataclass(frozen=True)
class Outcome:
    """What became of one run."""

    family: str
    count: int
    """Evaluations made."""
    false: bool
    """The best noise-free value later was more than 2 % better than the checkpoint kept's."""
    excess: float
    """How much worse the checkpoint kept is than the best of the whole curve, noise-free and relative."""
    excess_unstopped: float
    """The same without stopping: what it costs alone that checkpoints are chosen by noisy values."""


def outcomes(seed: int, *, patience: int, noise: float) -> list[Outcome]:
    rng = np.random.default_rng([seed, 1])
    found = []
    for family, curve in curves(seed):
        noisy = curve * (1 + noise * rng.standard_normal(HORIZON))
        count = stops(noisy, patience, noise, WARM_UP)
        kept = curve[noisy[:count].argmin()]
        found.append(
            Outcome(
                family=family,
                count=count,
                false=bool(curve[count:].min(initial=math.inf) < 0.98 * kept),
                excess=float(kept / curve.min() - 1),
                excess_unstopped=float(curve[noisy.argmin()] / curve.min() - 1),
            )
        )
    return found


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_noisy_curves_are_cut_where_nothing_is_lost(seed: int) -> None:
    runs = outcomes(seed, patience=PATIENCE, noise=NOISE)
    false = [run.false for run in runs]
    assert np.mean(false) <= 0.05
    assert all(run.count == HORIZON for run in runs if run.family == "improving")
    assert 1 - np.mean([run.count for run in runs]) / HORIZON >= 0.3

    assert np.median([run.excess for run in runs]) <= 0.01
    assert np.quantile([run.excess for run in runs], 0.95) <= 0.025
    # That a checkpoint is chosen by its noisy value costs some curves more than 2 % in any case.
    beyond = np.mean([run.excess > 0.02 for run in runs if not run.false])
    assert beyond <= 0.04
    assert beyond <= np.mean([run.excess_unstopped > 0.02 for run in runs]) + 0.02


@pytest.mark.parametrize("patience", [1, 2, 5, 15])
def test_a_constant_distance_stops_after_twice_the_patience(patience: int) -> None:
    assert stops([7.0] * 100, patience) == 2 * patience
    # With noise hardly later: a median seldom falls by chance as much as it has to.
    rng = np.random.default_rng(patience)
    counts = [stops(1 + NOISE * rng.standard_normal(200), patience) for _ in range(50)]
    assert 2 * patience <= np.mean(counts) <= 2 * patience + 2


@pytest.mark.parametrize("patience", [1, 2, 5, 10, 20])
def test_a_slow_decay_adds_up(patience: int) -> None:
    """Steady, it never stops as long as `patience` evaluations bring more than a median has to fall."""
    needed = 1 - threshold(NOISE) / math.sqrt(patience)
    time = np.arange(1000.0)
    assert stops((needed - 0.001) ** (time / patience), patience) == 1000
    assert stops((needed + 0.001) ** (time / patience), patience) == 2 * patience


def test_a_rising_distance_stops() -> None:
    fall_and_rise = np.abs(np.arange(100.0) - 40) + 10
    assert 40 < stops(fall_and_rise, 10) <= 40 + 2 * 10


@pytest.mark.parametrize("bad", [1e6, math.inf, -math.inf, math.nan])
def test_bad_values_in_less_than_half_of_the_evaluations_do_not_count(bad: float) -> None:
    falling = 0.99 ** np.arange(200.0)
    falling[::3] = bad
    assert stops(falling, 10) == 200
    constant = np.ones(200)
    constant[::3] = bad
    assert stops(constant, 10) == 20


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
def test_failed_evaluations_are_no_progress(bad: float) -> None:
    assert stops([bad] * 100, 5) == 10
    # Values after failures are progress, failures after values are not.
    assert not should_stop(history([bad] * 5 + [1.0] * 5), patience=5, spread=NOISE, warm_up=0)
    assert should_stop(history([1.0] * 5 + [bad] * 5), patience=5, spread=NOISE, warm_up=0)


def test_evaluations_before_the_end_of_the_warm_up_do_not_count() -> None:
    # The fourth is at its end.
    assert stops([7.0] * 100, 5, warm_up=WARM_UP) == 3 + 2 * 5
    # Low ones are no mark for the others either.
    late = [1.0] * 3 + [7.0] * 5 + [6.0] * 4
    assert not should_stop(history([*late, 6.0]), patience=5, spread=NOISE, warm_up=WARM_UP)


def test_with_a_patience_of_one_two_evaluations_are_compared() -> None:
    assert not should_stop(history([1.0]), patience=1, spread=NOISE, warm_up=0)
    assert should_stop(history([1.0, 0.975]), patience=1, spread=NOISE, warm_up=0)
    assert not should_stop(history([1.0, 0.965]), patience=1, spread=NOISE, warm_up=0)


def test_patience_must_be_positive() -> None:
    with pytest.raises(ValueError, match="patience must be at least 1, not 0"):
        should_stop([], patience=0, spread=NOISE, warm_up=0)


@given(
    distances=st.lists(st.floats(), max_size=60),
    start=st.integers(0, 10),
    patience=st.integers(1, 8),
    spread=st.floats(0, 0.1),
)
def test_only_the_last_evaluations_after_the_warm_up_decide(
    distances: list[float], start: int, patience: int, spread: float
) -> None:
    values = history(distances)

    def decide(some: History, warm_up: int = EVERY * start) -> bool:
        return should_stop(some, patience=patience, spread=spread, warm_up=warm_up)

    decision = decide(values)
    assert decide(list(values)) == decision
    after = [(images, value) for images, value in values if images >= EVERY * start]
    assert decide(after[-2 * patience :], 0) == decision
    assert not decision or len(after) >= 2 * patience
    # A failed evaluation is the worst of all.
    worst = [(images, value if math.isfinite(value) else math.inf) for images, value in values]
    assert decide(worst) == decision


@given(
    distances=st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=40),
    patience=st.integers(1, 8),
    exponent=st.integers(-20, 20),
)
def test_the_unit_of_the_distance_does_not_matter(
    distances: list[float], patience: int, exponent: int
) -> None:
    # A power of two, so that nothing is rounded.
    scaled = [value * 2.0**exponent for value in distances]
    assert stops(scaled, patience) == stops(distances, patience)


def test_threshold_is_two_standard_deviations_and_at_least_what_is_inconclusive() -> None:
    assert threshold(0.015) == 0.03
    assert threshold(0.0) == threshold(0.0065) == threshold(math.nan) == threshold(math.inf) == 0.013


@pytest.mark.parametrize("config", [EmaConfig(), EmaConfig(half_life_kimg=0.7, ramp_up=0.03)])
def test_the_warm_up_lasts_as_long_as_the_ramp(config: EmaConfig) -> None:
    def at(images: int) -> float:
        return half_life(config, OptimConfig(), images)

    end = warm_up_images(config)
    assert at(end + 1) == at(10 * end) > at(end - 1)
    assert warm_up_images(EmaConfig(half_life_start_kimg=0)) == 0  # the initial weights are gone at once


@pytest.mark.parametrize(
    ("distances", "ends"),
    [
        ([], False),
        ([6.0], False),
        ([6.5, 6.5], True),
        ([6.0, 7.0, 6.0], False),
        ([6.0, 7.0, 6.0, 6.4], True),
        ([6.0, 6.0, 7.0], False),
        ([6.0, math.nan], False),
        ([math.nan, math.inf, 6.0], False),
    ],
)
def test_a_target_is_reached_in_two_evaluations_one_after_another(distances: list[float], ends: bool) -> None:
    found = DistanceHistory(values=history(distances))
    assert found.ended_by(EvalConfig(target=6.5), EmaConfig()) == ("eval.target" if ends else None)
    assert found.ended_by(EvalConfig(), EmaConfig()) is None
    assert found.ended_by(EvalConfig(target=6.0 - 1e-9), EmaConfig()) is None


def test_a_target_and_a_patience_end_a_run_whichever_comes_first() -> None:
    both = EvalConfig(target=6.5, patience=2)
    high = DistanceHistory(spread=NOISE, values=history([7.0] * 7))
    assert high.ended_by(both, EmaConfig()) == "eval.patience"
    assert (
        DistanceHistory(spread=NOISE, values=history([6.0] * 7)).ended_by(both, EmaConfig()) == "eval.target"
    )


def test_the_warm_up_of_the_defaults() -> None:
    assert warm_up_images(EmaConfig()) == WARM_UP
