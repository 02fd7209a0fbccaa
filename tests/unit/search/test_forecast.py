"""Forecasts of a search: pure, calibrated, within the budget, and kept in its folder."""

from __future__ import annotations

import json
import math
from pathlib import Path
from statistics import median

import pytest
from optuna.storages import InMemoryStorage

from benchmarks import forecasts, simulated
from gan_dist.config.search import BudgetConfig
from gan_dist.search.budget import Ledger
from gan_dist.search.forecast import Curve, forecast, mean_images
from gan_dist.search.outlook import FORECAST, Outlook, format_forecast
from gan_dist.search.plan import make_plan
from gan_dist.search.study import SearchStudy

LENGTH, EVERY = simulated.LENGTH, simulated.EVERY


def curve(*values: float) -> Curve:
    images = tuple(EVERY * (place + 1) for place in range(len(values)))
    return Curve(images, values, EVERY * len(values))


def test_intervals_hold_about_as_often_as_they_say() -> None:
    """Eight searches, three moments each: 21.6 hold on average, and these should not be much too wide."""
    held, widths = [], []
    for seed in range(8):
        made, value, _ = forecasts.forecasts_of(seed)
        for low, _, high in [one.value for one in made.values() if one.value]:
            held.append(low <= value * (1 + 1e-9) and value <= high * (1 + 1e-9))
            widths.append(high / low)
    assert len(held) == 24
    assert sum(held) >= 22
    assert median(widths) < 6


def test_before_any_trial_the_cost_follows_from_the_rule_and_no_value_is_claimed() -> None:
    for scheduler, low, high in (
        ("none", LENGTH, LENGTH),
        ("median", LENGTH / 2, LENGTH / 2 + EVERY),
        ("asha", 3 * EVERY, LENGTH / 3),
        ("hyperband", LENGTH / 3, 2 * LENGTH / 3),
    ):
        search = simulated.config(trials=60, scheduler=scheduler)
        mean = mean_images(search, EVERY, LENGTH)
        assert low <= mean <= high, scheduler
        found = forecast([], [], 60, every=EVERY, length=LENGTH, mean=mean)
        assert found.value is None
        assert found.images.low < 60 * mean <= found.images.high
    # A scheduler that stops none before the end of a trial lets all through.
    assert mean_images(simulated.config(), LENGTH, LENGTH) == LENGTH


def test_a_forecast_is_the_best_so_far_where_nothing_is_to_come_and_lower_the_more_is() -> None:
    ended = [
        curve(9.0, 8.0, 7.5),
        curve(9.5, 9.0, 8.8),
        curve(8.0, 6.0, 5.0),
        curve(10.0),
        curve(7.0, 6.5, 6.1),
    ]
    seen = [
        forecast(ended, [], more, every=EVERY, length=3 * EVERY, mean=2 * EVERY) for more in (0, 1, 5, 50)
    ]
    over = seen[0]
    assert over.images == (13 * EVERY,) * 3
    assert over.value == pytest.approx((5.0,) * 3)
    lows = [one.value.low for one in seen if one.value]
    assert lows == sorted(lows, reverse=True)
    assert lows[-1] < 4.0
    assert all(one.value and one.value.high <= 5.0 + 1e-9 for one in seen)
    # A sampler that learns finds more, and a trial that has measured nothing yet may find something.
    guessed = forecast(ended, [], 5, every=EVERY, length=3 * EVERY, mean=2 * EVERY, learns=False)
    begun = forecast(ended, [Curve((), (), 0)], 0, every=EVERY, length=3 * EVERY, mean=2 * EVERY)
    assert guessed.value is not None
    assert begun.value is not None
    assert lows[2] < guessed.value.low < lows[0]
    assert begun.value.low < lows[0]
    # The same curves give the same numbers.
    assert forecast(ended, [], 50, every=EVERY, length=3 * EVERY, mean=2 * EVERY) == seen[-1]
    # A budget lets fewer trials through.
    limited = forecast(
        ended, [], math.inf, every=EVERY, length=3 * EVERY, mean=2 * EVERY, images_left=4.0 * EVERY
    )
    assert limited.images.high <= 17 * EVERY
    assert limited.value is not None
    assert lows[-1] < limited.value.low < lows[0]
    endless = forecast(ended, [], math.inf, every=EVERY, length=3 * EVERY, mean=2 * EVERY)
    assert endless.images.middle == math.inf
    assert endless.value is None


def test_a_trial_that_runs_is_extended_as_others_went_on() -> None:
    ended = [curve(*(scale * (1 + place) ** -1.0 for place in range(9))) for scale in (9.0, 10.0, 11.0, 12.0)]
    running = curve(4.0, 2.0, 1.4)
    found = forecast(ended, [running], 0, every=EVERY, length=9 * EVERY, mean=9 * EVERY)
    assert found.value is not None
    # As the others, it falls by its images' ratio: to 4 / 9 at its end.
    assert found.value.low < 4 / 9 < found.value.high < 1.4
    assert found.images == (45 * EVERY,) * 3


def test_values_that_are_not_positive_or_not_finite_are_forecast_too() -> None:
    ended = [curve(-0.1, -0.2), curve(0.3), curve(0.2, math.pi), Curve((), (), 3000), curve(0.0, 0.1)]
    found = forecast(ended, [Curve((), (), 0)], 20, every=EVERY, length=9 * EVERY, mean=2 * EVERY)
    assert found.value is not None
    assert found.value.low < -0.2


def test_a_searchs_forecasts_are_kept_with_what_came_through_a_kill(tmp_path: Path) -> None:
    settings = [f"storage={tmp_path}", "train.kimg=81", "eval.every_kimg=3", "search.budget.images=1200000"]
    plan = make_plan("search-digits", settings)
    search = simulated.config(trials=20, algorithm="random")
    storage = InMemoryStorage()
    text = ""
    for stop in (100_000, 10**9):
        study = SearchStudy(storage, "s", simulated.space(), search, EVERY, LENGTH)
        ledger = Ledger(plan.uri, BudgetConfig(images=1_200_000), 0, clock=lambda: study.images / 100)  # noqa: B023
        outlook = Outlook(plan, study, ledger, LENGTH, "fd_digits")
        for _ in simulated.steps(study, 0, 4):
            ledger.charge(4.0, 3.6)
            text = outlook.text() or text
            if study.images > stop:
                break
    assert text.startswith("at its end ")
    whole = outlook.close(3.5)
    assert json.loads(Path(plan.uri, FORECAST).read_text()) == whole
    made = whole["made"]
    assert [one["trials"] for one in made] == sorted({one["trials"] for one in made})
    assert 10 < len(made) <= 20
    assert whole["came"]["images"] == study.images
    last = made[-1]
    assert last["images"][1] <= 1_200_000
    assert last["gpu_seconds"] == pytest.approx(4 * last["seconds"], rel=0.1)
    assert "kimg" in format_forecast(last, "fd_digits")
    # What somebody has damaged is begun anew.
    Path(plan.uri, FORECAST).write_text('{"made": [{}]}')
    assert Outlook(plan, study, ledger, LENGTH, "fd_digits").close(3.5)["made"] == []
