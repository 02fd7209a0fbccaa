"""A search's budget: kept to one measurement of what runs, through kills, and refused where it cannot be."""

from __future__ import annotations

import json
import math
import random
from datetime import datetime, timedelta
from itertools import islice
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from benchmarks import simulated
from gan_dist.config.search import BudgetConfig
from gan_dist.core.errors import CheckpointError, ConfigError
from gan_dist.search.budget import AHEAD_S, Ledger, end_of, price_of, read_prices, read_spent
from gan_dist.search.plan import make_plan
from gan_dist.search.study import SearchStudy

SPACE = "search.space={optim.g.lr: [1e-4, 1e-3]}"


def open_study(storage: InMemoryStorage, trials: int = 30) -> SearchStudy:
    search = simulated.config(trials=trials, algorithm="random")
    return SearchStudy(storage, "s", simulated.space(), search, simulated.EVERY, simulated.LENGTH)


def test_a_killed_search_overshoots_by_less_than_a_measurement_of_each_trial_and_loses_none(
    tmp_path: Path,
) -> None:
    rng, storage, concurrent = random.Random(0), InMemoryStorage(), 4
    limits = [300_000, 500_000, 10_000_000]
    for limit in limits:
        budget = BudgetConfig(images=limit)
        while True:  # each round is a process, which a kill or the budget ends
            study = open_study(storage)
            ledger = Ledger(str(tmp_path), budget, study.images)
            for _ in islice(simulated.steps(study, 0, concurrent), rng.randrange(5, 60)):
                if ledger.reached(study.images):
                    break
            assert study.images == sum(max(one.intermediate_values, default=0) for one in study.trials())
            if ledger.reached(study.images) or not study.unfinished:
                break
        assert study.images < limit + concurrent * simulated.EVERY
        if study.unfinished:
            assert study.images >= limit
            # What the budget has stopped is neither pruned nor complete: the next process goes on with it.
            running = [one.number for one in study.trials() if one.state == TrialState.RUNNING]
            again = open_study(storage)
            assert [trial.number for _ in running if (trial := again.next())] == running
    assert study.unfinished == 0
    assert TrialState.RUNNING not in {one.state for one in study.trials()}
    assert len(study.trials()) == 30


@pytest.mark.parametrize("seed", range(2))
def test_a_kill_loses_no_time_and_a_pause_costs_none(seed: int, tmp_path: Path) -> None:
    rng, clock = random.Random(seed), [0.0]
    used = gpu_used = dollars = 0.0
    for _ in range(8):
        ledger = Ledger(str(tmp_path), BudgetConfig(), 0, clock=lambda: clock[0])
        gpus, price = 0.0, 0.0
        for _ in range(rng.randrange(1, 30)):
            step = rng.uniform(0.1, AHEAD_S / 2)
            clock[0] += step
            used, gpu_used, dollars = used + step, gpu_used + step * gpus, dollars + step * price / 3600
            gpus, price = rng.choice([0.0, 0.5, 4.0]), rng.choice([0.0, 1.2])
            ledger.charge(gpus, price)
        if rng.random() < 0.3:
            ledger.close()
        clock[0] += 1000  # killed, or ended: nobody pays until the next one
    spent = read_spent(str(tmp_path))
    assert spent is not None
    assert used <= spent.seconds + 1e-6 <= used + 8 * AHEAD_S + 1e-3
    assert gpu_used <= spent.gpu_seconds + 1e-6 <= gpu_used + 8 * 4 * AHEAD_S + 1e-3
    assert dollars <= spent.dollars + 1e-9 <= dollars + 8 * 1.2 * AHEAD_S / 3600 + 1e-6


def test_each_limit_is_reached_by_what_it_counts_and_the_first_one_ends(tmp_path: Path) -> None:
    clock, now = [0.0], datetime(2026, 12, 1, 23, 0).astimezone()

    def ledger(**limits: object) -> Ledger:
        budget = BudgetConfig.model_validate(limits)
        return Ledger(str(tmp_path), budget, 500, lambda: clock[0], lambda: now + timedelta(seconds=clock[0]))

    one = ledger(gpu_hours=1, dollars=2.0, until="06:00", images=5000)
    one.charge(2.0, 3.0)
    clock[0] = 1800.0
    assert one.reached(4999) is None
    assert one.images_left(1000) == 4000  # nothing is charged yet
    one.charge(2.0, 3.0)
    assert [reached.key for reached in (one.reached(5000), one.reached(4999)) if reached] == [
        "images",
        "gpu_hours",
    ]
    one.close()
    richer = ledger(gpu_hours=2, dollars=2.0, until="06:00")
    # 1000 images after the first 500 took 1800 s: the other GPU-hour is 1000, the dollars are 333 more.
    assert richer.reached(1500) is None
    assert richer.images_left(1500) == pytest.approx(1000 / 3)
    # The time is that of the first process, in a later one too.
    clock[0] = 7 * 3600.0
    late = ledger(until="06:00")
    reached = late.reached(0)
    assert reached is not None
    assert "until=06:00 is reached: it was 2026-12-02T06:00" in reached.text
    assert ledger(until="07:00").reached(0) is None
    assert ledger().reached(10**9) is None


def test_a_time_of_day_is_the_next_one() -> None:
    now = datetime(2026, 12, 1, 5, 59).astimezone()
    at = datetime(2026, 12, 1, 6, 0).astimezone()
    assert end_of("06:00", now) == at
    assert end_of("06:00", at) == at + timedelta(days=1)
    assert end_of("2026-12-24T06:00", now) == datetime(2026, 12, 24, 6).astimezone()
    assert end_of("2026-12-24T06:00Z", now).utctimetuple().tm_hour == 6


PRICES = "gpu: 1.5\nlocal: 0.1\n"


@pytest.mark.parametrize(
    ("settings", "prices", "message"),
    [
        (["search.budget.images=5e4"], "", r"images=50000 is less .* train\.kimg=81 is 81000 images"),
        (["search.budget.gpu_hours=2"], "", r"trials reserve no GPU \(scale\.gpus_per_worker=0\)"),
        (["search.budget.dollars=2"], "", r"dollars=2 needs the price of an hour of each node type"),
        (["search.budget.until=2026-02-31T06:00"], "", r"2026-02-31T06:00 is no time \(day"),
        (["search.budget.dollars=2", "search.prices=PRICES"], "", "holds an empty mapping, and not prices"),
        (["search.budget.dollars=2", "search.prices=PRICES"], "gpu: [", "line 1: not readable as YAML"),
        (["search.budget.dollars=2", "search.prices=PRICES"], "gpu: -1", "the price of gpu is -1"),
        (
            ["search.budget.dollars=2", "search.prices=PRICES"],
            "gpu: .inf",
            r"the price of gpu is \.inf; give the dollars of an hour",
        ),
        (
            ["search.budget.dollars=2", "search.prices=PRICES"],
            "gpu: 1\ngpu: 2",
            "line 1: has the key gpu twice",
        ),
        (["search.budget.dollars=2", "search.prices=/no/such"], "", "prices=/no/such: there is no such file"),
    ],
)
def test_what_no_budget_can_be_is_refused_before_anything(
    settings: list[str], prices: str, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(prices)
    with pytest.raises(ConfigError, match=message):
        make_plan("search-digits", [SPACE, *(one.replace("PRICES", str(file)) for one in settings)])


def test_nodes_without_a_price_are_named_with_how_their_type_was_found(tmp_path: Path) -> None:
    file = tmp_path / "prices.yaml"
    file.write_text(PRICES)
    prices = read_prices(str(file))
    assert price_of([("g5.xlarge gpu", "10.0.0.1"), ("", "10.0.0.2")], prices, "p.yaml") == 1.6
    with pytest.raises(
        ConfigError, match=r"no price of big, the type of the node 10\.0\.0\.3, by its labels"
    ):
        price_of([("big", "10.0.0.3")], prices, "p.yaml")
    with pytest.raises(ConfigError, match=r"no price of local, .* which has no label ray\.io/node-group"):
        price_of([("", "10.0.0.3")], {"gpu": 1.0}, "p.yaml")


def test_a_damaged_record_is_refused(tmp_path: Path) -> None:
    for damaged in ("", "[]", json.dumps({"seconds": -1}), json.dumps({"seconds": "1e999"})):
        (tmp_path / "spent.json").write_text(damaged)
        with pytest.raises(CheckpointError, match="is damaged"):
            Ledger(str(tmp_path), None, 0)


def test_trials_have_no_limit_with_a_budget_unless_they_are_set() -> None:
    assert simulated.config(budget=BudgetConfig(images=9)).most_trials == math.inf
    assert simulated.config(budget=BudgetConfig(images=9), trials=30).most_trials == 30
    assert simulated.config(budget=BudgetConfig()).most_trials == 30
    assert simulated.config(budget=BudgetConfig(images=9), scheduler="pbt").most_trials == 30
    assert simulated.config().most_trials == 30
