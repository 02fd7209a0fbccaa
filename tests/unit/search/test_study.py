"""A search's book: every trial given out once, told truly, and found again after a kill."""

from __future__ import annotations

import math
import multiprocessing
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import create_study, load_study
from optuna.trial import FrozenTrial, TrialState

from benchmarks import simulated
from gan_dist.config import SearchConfig, load_config
from gan_dist.core.errors import ConfigError, ResumeError
from gan_dist.search.pruners import Asha, Median
from gan_dist.search.samplers import BEST, LATEST, History, pick
from gan_dist.search.space import Space
from gan_dist.search.space.parse import parse
from gan_dist.search.study import ENDED, REASON, SearchStudy
from gan_dist.search.study_storage import study_storage

GRID = {"loss.name": ["hinge", "rpgan"], "model.width": [8, 16, 32]}


def ledger_of(storage: BaseStorage, search: SearchConfig, space: Space | None = None) -> SearchStudy:
    return SearchStudy(storage, "s", space or simulated.space(), search, simulated.EVERY, simulated.LENGTH)


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
    assert [task.number for task in resumed if task is not None] == numbers
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
    """A sketch of `python -m benchmarks search`: the median of five seeds."""
    from benchmarks.search import _images_vs_random

    ratios = sorted(_images_vs_random(seed, 60) for seed in range(5))
    assert ratios[2] <= 1 / 3


class Interrupted(SearchStudy):
    """A ledger whose process ends at some new report."""

    reports: int

    def report(self, number: int, step: int, value: float) -> bool:
        self.reports -= step not in self.trials()[number].intermediate_values
        if self.reports < 0:
            raise InterruptedError
        return super().report(number, step, value)


def searched(search: SearchConfig, reports: int) -> list[FrozenTrial]:
    """Run a search, one trial at a time, in processes that end after so many reports; return its trials."""
    storage = InMemoryStorage()
    while True:
        ledger = Interrupted(storage, "s", simulated.space(), search, simulated.EVERY, simulated.LENGTH)
        ledger.reports = reports
        with suppress(InterruptedError):
            simulated.run(ledger, 0, concurrent=1)
            return ledger.trials()


@pytest.mark.parametrize("scheduler", ["asha", "median"])
def test_a_search_that_is_interrupted_decides_as_one_that_is_not(scheduler: str) -> None:
    search = simulated.config(trials=70, scheduler=scheduler)
    at_once, often = searched(search, 10**9), searched(search, 3)
    assert {trial.state for trial in often} >= {TrialState.COMPLETE, TrialState.PRUNED}
    for one, other in zip(at_once, often, strict=True):
        assert (one.params, one.state, one.intermediate_values) == (
            other.params,
            other.state,
            other.intermediate_values,
        )


def test_a_trial_that_was_to_stop_when_all_was_killed_stops() -> None:
    storage, search = InMemoryStorage(), simulated.config(trials=2)
    ledger = ledger_of(storage, search)
    ledger.next()
    ledger.next()
    ledger.report(0, 3000, 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, "set_trial_intermediate_value", interrupt)
        with pytest.raises(InterruptedError):
            ledger.report(1, 3000, 2.0)
    again = ledger_of(storage, search)
    assert again.trials()[1].intermediate_values == {}
    again.report(0, 9000, 1.5)
    assert again.report(1, 3000, 2.0)
    again.prune(1)
    assert again.trials()[1].intermediate_values == {3000: 2.0}


def interrupt(*_: object) -> None:
    raise InterruptedError


def test_what_is_no_number_never_passes_a_rung() -> None:
    for rule in (Asha(10, 3), Median(10)):
        for number, value in enumerate([math.nan, math.inf, -math.inf, 1.0]):
            stopped = rule.report(number, 10, value)
            assert stopped == (isinstance(rule, Asha) and not math.isfinite(value))
            rule.ended(number, complete=math.isfinite(value))


def test_a_trial_at_its_end_is_not_stopped() -> None:
    ledger = ledger_of(InMemoryStorage(), simulated.config(trials=2))
    for value in (1.0, 2.0):
        task = ledger.next()
        assert task is not None
        assert not ledger.report(task.number, simulated.LENGTH, value)
        ledger.complete(task.number)
    assert [trial.value for trial in ledger.trials()] == [1.0, 2.0]


def test_points_that_were_not_run_are_next_and_have_the_types_of_their_keys() -> None:
    storage, space = InMemoryStorage(), parse(GRID, load_config("digits"))
    points: tuple[dict[str, Any], ...] = tuple(
        {"model.width": float(width), "loss.name": "hinge"} for width in (32, 8, 16)
    )
    for trials in (1, 2, 3):
        ledger = ledger_of(storage, SearchConfig(space=GRID, trials=trials, points=points), space)
        task = ledger.next()
        assert task is not None
        assert type(task.values["model.width"]) is int
        ledger.report(task.number, 3000, 1.0)
        ledger.complete(task.number)
    assert [trial.params["model.width"] for trial in ledger.trials()] == [32, 8, 16]


def test_a_study_of_something_else_is_refused() -> None:
    storage = InMemoryStorage()
    create_study(storage=storage, study_name="s").optimize(lambda trial: trial.suggest_float("x", 0, 1), 2)
    with pytest.raises(ResumeError, match="not made by a search"):
        ledger_of(storage, simulated.config(trials=2))


def test_a_sampler_is_shown_a_bounded_part_in_whatever_order_trials_end() -> None:
    space = simulated.space()
    point = space.corners()[0]
    draws = random.Random(0)
    numbers = list(range(300))
    ends = {number: draws.choice(ENDED) for number in numbers}
    curves = {number: [draws.random() for _ in range(draws.randint(1, 5))] for number in numbers}
    shown = []
    for _ in range(2):
        history = History(space)
        for number in numbers:
            history.began(number, point)
        for number in draws.sample(numbers, len(numbers)):
            history.ended(number, ends[number], curves[number])
        history.began(300, point)
        shown.append([(trial.state, trial.value, trial.intermediate_values) for trial in history.shown()])
    assert shown[0] == shown[1]
    assert LATEST < len(shown[0]) <= BEST + LATEST + 1
    best = min(min(curves[number]) for number in numbers if ends[number] == TrialState.COMPLETE)
    assert min(value for _, value, _ in shown[0] if value is not None) == best


def test_a_sampler_is_told_of_a_trial_that_failed_as_of_a_bad_one() -> None:
    space = simulated.space()
    history = History(space)
    history.began(0, space.corners()[0])
    history.ended(0, TrialState.FAIL, [])
    (shown,) = history.shown()
    # Optuna's samplers leave out what is FAIL, and would try its like again.
    assert shown.state == TrialState.PRUNED


def test_every_fifth_trial_is_random() -> None:
    space = simulated.space()
    history = History(space)
    for number, point in enumerate(pick("random", space, seed, []) for seed in range(20)):
        history.began(number, point)
        history.ended(number, TrialState.COMPLETE, [float(number)])
    alike = [
        pick("tpe", space, seed, history.shown()) == pick("random", space, seed, []) for seed in range(15)
    ]
    assert alike == [seed % 5 == 0 for seed in range(15)]


# Killed


def search_slowly(folder: str) -> None:
    ledger = ledger_of(study_storage(folder, None), simulated.config(trials=60))
    report = ledger.report

    def slowly(number: int, step: int, value: float) -> bool:
        time.sleep(0.002)
        return report(number, step, value)

    ledger.report = slowly  # type: ignore[method-assign]
    simulated.run(ledger, 0, concurrent=4)


def require_kept(before: list[FrozenTrial], now: list[FrozenTrial]) -> None:
    """Require that trials are as they were, but for those that ran, which may have come further."""
    assert len(now) >= len(before)
    for old, new in zip(before, now, strict=False):
        assert new.params == old.params
        assert old.intermediate_values.items() <= new.intermediate_values.items()
        assert old.state not in ENDED or new == old


def test_twenty_kills_lose_and_double_nothing(tmp_path: Path) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["benchmarks.simulated", "gan_dist.search.study_storage"])
    draws = random.Random(1)
    journal = tmp_path / "study.journal"
    trials: list[FrozenTrial] = []
    kills = []
    for _ in range(20):
        size = journal.stat().st_size if journal.exists() else 0
        process = processes.Process(target=search_slowly, args=(str(tmp_path),))
        process.start()
        while process.is_alive() and (not journal.exists() or journal.stat().st_size == size):
            time.sleep(0.001)
        time.sleep(draws.uniform(0, 0.12))
        process.kill()
        process.join()
        kills.append(process.exitcode)
        before, trials = trials, trials_of(tmp_path)
        require_kept(before, trials)
    assert set(kills) == {-signal.SIGKILL}
    assert any(trial.state in ENDED for trial in trials)
    search_slowly(str(tmp_path))
    before, trials = trials, trials_of(tmp_path)
    require_kept(before, trials)
    assert [trial.number for trial in trials] == list(range(60))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    for trial in trials:
        steps = sorted(trial.intermediate_values)
        assert steps == [simulated.EVERY * (index + 1) for index in range(len(steps))]
        assert trial.intermediate_values == {step: measured(trial, step) for step in steps}


def measured(trial: FrozenTrial, step: int) -> float:
    return simulated.curve(trial.params, simulated.noise(0, trial.number)).at(step)


def trials_of(folder: Path) -> list[FrozenTrial]:
    try:
        return load_study(study_name="s", storage=study_storage(str(folder), None)).get_trials()
    except KeyError:  # killed before there was a study
        return []
