"""A search's book: every trial given out once, told truly, and found again after a kill."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import load_study
from optuna.trial import FrozenTrial, TrialState

from gan_dist.bench import simulated
from gan_dist.config import SearchConfig, load_config
from gan_dist.errors import ConfigError, ResumeError
from gan_dist.search.ledger import ENDED, REASON, Ledger
from gan_dist.search.parse import parse
from gan_dist.search.schedulers import Asha, Median
from gan_dist.search.space import Space
from gan_dist.search.studies import study_storage

GRID = {"loss.name": ["hinge", "rpgan"], "model.width": [8, 16, 32]}


def ledger_of(storage: BaseStorage, search: SearchConfig, space: Space | None = None) -> Ledger:
    return Ledger(storage, "s", space or simulated.space(), search, simulated.EVERY, simulated.LENGTH)


def test_trials_end_in_the_states_that_they_are_told() -> None:
    ledger = ledger_of(InMemoryStorage(), simulated.config(trials=4, scheduler="none"))
    for end in ("complete", "prune", "fail", "nan"):
        task = ledger.next()
        assert task is not None
        assert not ledger.report(task.number, 3000, 5.0 if end != "nan" else math.nan)
        assert not ledger.report(task.number, 6000, 7.0 if end != "nan" else math.inf)
        if end == "prune":
            ledger.prune(task.number)
        elif end == "fail":
            ledger.fail(task.number, "the reason")
        else:
            ledger.complete(task.number)
    assert ledger.next() is None
    assert ledger.unfinished == 0
    complete, pruned, failed, never = ledger.trials()
    assert (complete.state, complete.value) == (TrialState.COMPLETE, 5.0)
    assert (pruned.state, pruned.intermediate_values) == (TrialState.PRUNED, {3000: 5.0, 6000: 7.0})
    assert (failed.state, failed.user_attrs[REASON]) == (TrialState.FAIL, "the reason")
    # What was never a number wins nothing, and is no success.
    assert never.state == TrialState.FAIL
    assert "without a finite measurement" in never.user_attrs[REASON]


def test_points_come_first_and_a_grid_ends_when_it_is_through() -> None:
    space = parse(GRID, load_config("digits"))
    first = {"loss.name": "rpgan", "model.width": 16}
    search = SearchConfig(space=GRID, algorithm="grid", trials=100, points=(first,))
    ledger = ledger_of(InMemoryStorage(), search, space)
    given = []
    while (task := ledger.next()) is not None:
        given.append(dict(task.values))
        ledger.report(task.number, 3000, 1.0)
        ledger.complete(task.number)
    assert given[0] == first
    assert len(given) == 6
    assert Counter(map(str, given)) == Counter(map(str, space.grid()))
    wrong = SearchConfig(space=GRID, points=({"loss.name": "rpgan"},))
    with pytest.raises(ConfigError, match=r"model\.width is missing"):
        ledger_of(InMemoryStorage(), wrong, space)


def test_more_trials_go_on_from_there_and_fewer_are_none() -> None:
    storage = InMemoryStorage()
    simulated.run(ledger_of(storage, simulated.config(trials=5)), 0, concurrent=2)
    before = [trial.params for trial in ledger_of(storage, simulated.config(trials=5)).trials()]
    assert ledger_of(storage, simulated.config(trials=3)).next() is None
    simulated.run(ledger_of(storage, simulated.config(trials=9)), 0, concurrent=2)
    after = ledger_of(storage, simulated.config(trials=9)).trials()
    assert len(after) == 9
    assert [trial.params for trial in after[:5]] == before


def test_another_space_is_refused_with_what_differs() -> None:
    storage = InMemoryStorage()
    ledger_of(storage, simulated.config(trials=2))
    other = parse({**simulated.KEYS, "optim.g.lr": {"log": [1e-5, 1e-3]}}, load_config("digits"))
    with pytest.raises(ResumeError, match=r"optim\.g\.lr: was \{log: \[1e-05, 0\.01\]\}, is now"):
        ledger_of(storage, simulated.config(trials=2), other)


def test_what_was_decided_stays_so_after_a_restart() -> None:
    storage = InMemoryStorage()
    search = simulated.config(trials=3)
    ledger = ledger_of(storage, search)
    tasks = [ledger.next() for _ in range(3)]
    numbers = [task.number for task in tasks if task is not None]
    told = zip(numbers, (1.0, 2.0, 3.0), strict=True)
    assert [ledger.report(number, 3000, value) for number, value in told] == [False, True, True]
    again = ledger_of(storage, search)
    resumed = [again.next() for _ in range(3)]
    assert [task.number for task in resumed if task is not None and task.resumed] == numbers
    assert [task.values for task in resumed if task is not None] == [
        task.values for task in tasks if task is not None
    ]
    # A replay of what was measured before, other than it was: the first counts.
    assert [again.report(number, 3000, 0.1) for number in numbers] == [False, True, True]
    assert [trial.intermediate_values[3000] for trial in again.trials()] == [1.0, 2.0, 3.0]
    assert again.next() is None


def test_asha_keeps_the_best_of_each_rung() -> None:
    asha = Asha(10, 3)
    told = enumerate([5.0, 4.0, 6.0, 3.0, 4.5, 2.0])
    # The best so far goes on; of three or more, the best third.
    stopped = [asha.report(number, 10, value) for number, value in told]
    assert stopped == [False, False, True, False, True, False]
    assert not asha.report(0, 20, 99.0)  # no rung is there
    assert not asha.report(0, 30, 99.0)
    assert asha.report(1, 30, 100.0)
    assert not asha.report(3, 35, 1.0)  # the first value at or after a rung counts there


def test_the_median_stops_what_is_worse_than_half() -> None:
    rule = Median(10)
    for number in range(4):
        assert not rule.report(number, 10, float(number))
        rule.ended(number, complete=True)
    assert rule.report(5, 10, 2.0)
    assert not rule.report(6, 10, 1.0)
    assert not rule.report(7, 9, 99.0)


def test_searching_beats_chance_with_a_third_of_the_images() -> None:
    """A sketch of `gan-dist bench search`: the median of five seeds."""
    from gan_dist.bench.search import _images_vs_random

    ratios = sorted(_images_vs_random(seed, 60) for seed in range(5))
    assert ratios[2] <= 1 / 3


# Killed

CHILD = """
import sys, time
from gan_dist.bench import simulated
from gan_dist.search.ledger import Ledger
from gan_dist.search.studies import study_storage
search = simulated.config(trials=60)
storage = study_storage(sys.argv[1], None)
ledger = Ledger(storage, "s", simulated.space(), search, simulated.EVERY, simulated.LENGTH)
report = ledger.report
def slowly(*arguments):
    time.sleep(0.002)
    return report(*arguments)
ledger.report = slowly
simulated.run(ledger, 0, 4)
"""


def trials_of(folder: Path) -> list[FrozenTrial]:
    return load_study(study_name="s", storage=study_storage(str(folder), None)).get_trials()


@pytest.mark.slow
def test_twenty_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    draws = random.Random(1)
    seen: dict[int, FrozenTrial] = {}
    for _ in range(20):
        process = subprocess.Popen([sys.executable, "-c", CHILD, str(tmp_path)], env={**os.environ})
        deadline = time.monotonic() + 30
        while not (tmp_path / "study.journal").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(draws.uniform(0.0, 2.5))
        process.send_signal(signal.SIGKILL)
        process.wait()
        try:
            trials = trials_of(tmp_path)
        except KeyError:  # killed before there was a study
            continue
        for trial in trials:
            if trial.number in seen:
                before = seen[trial.number]
                assert trial.params == before.params
                # A curve only grows, and what has ended is not touched again.
                assert before.intermediate_values.items() <= trial.intermediate_values.items()
                assert before.state not in ENDED or trial == before
            seen[trial.number] = trial
    subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], check=True, timeout=120)
    trials = trials_of(tmp_path)
    assert [trial.number for trial in trials] == list(range(60))
    assert all(trial.state in ENDED for trial in trials)
    assert {trial.state for trial in trials} >= {TrialState.COMPLETE, TrialState.PRUNED}
