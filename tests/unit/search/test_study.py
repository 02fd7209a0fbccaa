"""A search's study: every trial given out once, ended in its true state, and found again after a kill."""

from __future__ import annotations

import math
import multiprocessing
import pickle
import random
import signal
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import pytest
from optuna.distributions import BaseDistribution
from optuna.storages import BaseStorage, InMemoryStorage
from optuna.study import create_study, load_study
from optuna.trial import FrozenTrial, TrialState, create_trial

from benchmarks import simulated
from gan_dist.config import SearchConfig
from gan_dist.core.errors import ConfigError, ResumeError, StorageError
from gan_dist.search.space import Space
from gan_dist.search.space.parse import parse
from gan_dist.search.study import REASON, STOPPED, SearchStudy
from gan_dist.search.study_storage import study_storage

Algorithm = Literal["tpe", "gp", "cmaes", "qmc", "random", "grid"]
GRID = {"loss.name": ["hinge", "rpgan"], "model.width": [8, 16, 32]}


def open_study(storage: BaseStorage, search: SearchConfig, space: Space | None = None) -> SearchStudy:
    return SearchStudy(storage, "s", space or simulated.space(), search, simulated.EVERY, simulated.LENGTH)


def test_trials_end_in_the_states_that_they_are_told() -> None:
    study = open_study(InMemoryStorage(), simulated.config(trials=4, scheduler="none"))
    for end in ("complete", "prune", "fail", "nan"):
        trial = study.next()
        assert trial is not None
        assert not study.report(trial.number, 3000, 5.0 if end != "nan" else math.nan)
        assert not study.report(trial.number, 6000, 7.0 if end != "nan" else math.inf)
        if end == "prune":
            study.prune(trial.number)
        elif end == "fail":
            study.fail(trial.number, "the reason")
        else:
            study.complete(trial.number)
    assert study.next() is None
    assert study.unfinished == 0
    complete, pruned, failed, never = study.trials()
    assert (complete.state, complete.value) == (TrialState.COMPLETE, 5.0)
    assert (pruned.state, pruned.intermediate_values) == (TrialState.PRUNED, {3000: 5.0, 6000: 7.0})
    assert (failed.state, failed.user_attrs[REASON]) == (TrialState.FAIL, "the reason")
    # What was never a number wins nothing, and is no success.
    assert never.state == TrialState.FAIL
    assert "without a finite measurement" in never.user_attrs[REASON]


def test_points_come_first_and_a_grid_ends_when_it_is_through() -> None:
    space = parse(GRID, {})
    first = {"loss.name": "rpgan", "model.width": 16}
    search = SearchConfig(space=GRID, algorithm="grid", trials=100, points=(first,))
    study = open_study(InMemoryStorage(), search, space)
    given = []
    while (trial := study.next()) is not None:
        given.append(dict(trial.params))
        study.report(trial.number, 3000, 1.0)
        study.complete(trial.number)
    assert given[0] == first
    assert len(given) == 6
    assert Counter(map(str, given)) == Counter(map(str, space.grid()))
    wrong = SearchConfig(space=GRID, points=({"loss.name": "rpgan"},))
    with pytest.raises(ConfigError, match=r"model\.width is missing"):
        open_study(InMemoryStorage(), wrong, space)


def test_more_trials_go_on_from_there_and_fewer_are_none() -> None:
    storage = InMemoryStorage()
    simulated.run(open_study(storage, simulated.config(trials=5)), 0, concurrent=2)
    before = [trial.params for trial in open_study(storage, simulated.config(trials=5)).trials()]
    assert open_study(storage, simulated.config(trials=3)).next() is None
    simulated.run(open_study(storage, simulated.config(trials=9)), 0, concurrent=2)
    after = open_study(storage, simulated.config(trials=9)).trials()
    assert len(after) == 9
    assert [trial.params for trial in after[:5]] == before


def test_a_search_that_reached_its_target_begins_no_more_trials() -> None:
    storage = InMemoryStorage()
    search = simulated.config(trials=9, scheduler="none")
    aimed = search.model_copy(update={"target": 5.0})
    study = open_study(storage, aimed)
    first, second = study.next(), study.next()
    assert first is not None
    assert second is not None
    study.report(first.number, 3000, 5.1)
    assert (study.target_reached, study.unfinished) == (False, 9)
    study.report(first.number, 6000, math.nan)
    study.report(first.number, 9000, 5.0)
    assert (study.target_reached, study.unfinished) == (True, 2)
    assert study.next() is None
    study.complete(first.number)
    # Killed here, the search goes on with what ran, and begins nothing.
    study = open_study(storage, aimed)
    resumed = study.next()
    assert resumed is not None
    assert resumed.number == second.number
    assert study.next() is None
    study.report(second.number, 3000, 7.0)
    study.complete(second.number)
    assert (study.target_reached, study.unfinished) == (True, 0)
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE] * 2
    assert open_study(storage, aimed).next() is None
    for other in (4.9, None):
        again = open_study(storage, search.model_copy(update={"target": other}))
        assert (again.target_reached, again.unfinished) == (False, 7)
    assert again.next() is not None


def test_a_grid_ends_at_its_target_too() -> None:
    search = SearchConfig(space=GRID, algorithm="grid", trials=100, scheduler="none", target=2.0)
    study = open_study(InMemoryStorage(), search, parse(GRID, {}))
    while (trial := study.next()) is not None:
        study.report(trial.number, 3000, 4.0 - trial.number)
        study.complete(trial.number)
    assert len(study.trials()) == 3


def test_another_space_is_refused_with_what_differs() -> None:
    storage = InMemoryStorage()
    open_study(storage, simulated.config(trials=2))
    other = parse({**simulated.KEYS, "optim.g.lr": {"log": [1e-5, 1e-3]}}, {})
    with pytest.raises(ResumeError, match=r"optim\.g\.lr: was \{log: \[1e-05, 0\.01\]\}, is now"):
        open_study(storage, simulated.config(trials=2), other)


def test_what_was_decided_stays_so_after_a_restart() -> None:
    storage = InMemoryStorage()
    search = simulated.config(trials=3)
    study = open_study(storage, search)
    given = [study.next() for _ in range(3)]
    numbers = [trial.number for trial in given if trial is not None]
    told = zip(numbers, (1.0, 2.0, 3.0), strict=True)
    assert [study.report(number, 3000, value) for number, value in told] == [False, True, True]
    again = open_study(storage, search)
    resumed = [again.next() for _ in range(3)]
    assert [trial.number for trial in resumed if trial is not None] == numbers
    assert [trial.params for trial in resumed if trial is not None] == [
        trial.params for trial in given if trial is not None
    ]
    # A replay of what was measured before, other than it was: the first counts.
    assert [again.report(number, 3000, 0.1) for number in numbers] == [False, True, True]
    assert [trial.intermediate_values[3000] for trial in again.trials()] == [1.0, 2.0, 3.0]
    assert again.next() is None


def run_trial(study: SearchStudy, values: list[float], *, every: int = simulated.EVERY) -> TrialState:
    """Run a trial with these measurements until it is stopped or they end; return its state."""
    trial = study.next()
    assert trial is not None
    for index, value in enumerate(values):
        if study.report(trial.number, every * (index + 1), value):
            study.prune(trial.number)
            return TrialState.PRUNED
    study.complete(trial.number)
    return TrialState.COMPLETE


def test_asha_lets_the_best_of_each_rung_go_on() -> None:
    study = open_study(InMemoryStorage(), simulated.config(trials=20))
    for _ in range(6):
        study.next()
    # The best so far goes on; of three or more, the best third.
    stopped = [
        study.report(number, 3000, value) for number, value in enumerate([5.0, 4.0, 6.0, 3.0, 4.5, 2.0])
    ]
    assert stopped == [False, False, True, False, True, False]
    assert not study.report(0, 6000, 99.0)  # no rung is there
    assert not study.report(0, 9000, 99.0)
    assert study.report(1, 9000, 100.0)
    assert not study.report(3, 9500, 1.0)  # the first value at or after a rung counts there


def test_the_median_stops_what_is_worse_than_half() -> None:
    study = open_study(InMemoryStorage(), simulated.config(trials=8, scheduler="median"))
    for number in range(4):
        assert run_trial(study, [float(number)]) == TrialState.COMPLETE
    assert run_trial(study, [2.0]) == TrialState.PRUNED
    assert run_trial(study, [1.0]) == TrialState.COMPLETE
    assert run_trial(study, [99.0], every=simulated.EVERY - 1) == TrialState.COMPLETE


def test_hyperband_has_ladders_that_begin_at_different_rungs() -> None:
    study = open_study(InMemoryStorage(), simulated.config(trials=200, scheduler="hyperband"))
    lengths: Counter[int] = Counter()
    for number in range(100):
        run_trial(study, [100.0 + number] * 27)
        lengths[max(study.trials()[number].intermediate_values)] += 1
    assert set(lengths) == {3000, 9000, 27_000, 81_000}


def test_searching_beats_chance_with_a_third_of_the_images() -> None:
    """A sketch of `python -m benchmarks search`: the median of five seeds."""
    from benchmarks.search import _images_vs_random

    ratios = sorted(_images_vs_random(seed, 60) for seed in range(5))
    assert ratios[2] <= 1 / 3


class Interrupted(SearchStudy):
    """A study whose process ends at some new report."""

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
        study = Interrupted(storage, "s", simulated.space(), search, simulated.EVERY, simulated.LENGTH)
        study.reports = reports
        with suppress(InterruptedError):
            simulated.run(study, 0, concurrent=1)
            return study.trials()


@pytest.mark.parametrize("scheduler", ["asha", "median", "hyperband"])
def test_a_search_that_is_interrupted_decides_as_one_that_is_not(scheduler: str) -> None:
    search = simulated.config(trials=40 if scheduler == "hyperband" else 70, scheduler=scheduler)
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
    study = open_study(storage, search)
    study.next()
    study.next()
    study.report(0, 3000, 1.0)
    assert study.report(1, 3000, 2.0)
    again = open_study(storage, search)
    again.report(0, 9000, 1.5)
    assert again.report(1, 3000, 2.0)
    again.prune(1)
    assert again.trials()[1].intermediate_values == {3000: 2.0}


@pytest.mark.parametrize(
    "write", ["set_trial_intermediate_value", "set_trial_system_attr", "set_trial_user_attr"]
)
def test_a_trial_that_was_not_judged_when_all_was_killed_is_judged_once(write: str) -> None:
    storage, search = InMemoryStorage(), simulated.config(trials=2)
    study = open_study(storage, search)
    study.next()
    study.next()
    study.report(0, 3000, 1.0)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(storage, write, interrupt)
        with pytest.raises(InterruptedError):
            study.report(1, 3000, 2.0)
    again = open_study(storage, search)
    stored = 3000 in again.trials()[1].intermediate_values
    assert stored == (write != "set_trial_intermediate_value")
    # A measurement that is stored was perhaps acted upon: the next one is judged.
    assert again.report(1, 3000, 2.0) == (not stored)
    assert again.report(0, 9000, 1.0) is False
    assert again.report(1, 9000, 2.0)


def interrupt(*_: object, **__: object) -> None:
    raise InterruptedError


@pytest.mark.parametrize("write", ["create_new_trial", "set_trial_state_values", "set_trial_param"])
@pytest.mark.parametrize("algorithm", ["tpe", "grid"])
def test_a_trial_that_was_half_made_when_all_was_killed_is_finished(write: str, algorithm: Algorithm) -> None:
    """Points and values are those of a search that nobody interrupts."""
    space = parse(GRID, {})
    search = SearchConfig(
        space=GRID, algorithm=algorithm, trials=4, points=({"loss.name": "rpgan", "model.width": 16},)
    )
    given = []
    for interrupted in (False, True):
        storage = InMemoryStorage()
        study = open_study(storage, search, space)
        for number in range(4):
            if interrupted:
                with pytest.MonkeyPatch.context() as patch:
                    patch.setattr(storage, write, interrupt)
                    with suppress(InterruptedError):
                        study.next()
                study = open_study(storage, search, space)
            trial = study.next()
            assert trial is not None
            assert trial.number == number
            study.report(number, 3000, float(number))
            study.complete(number)
        assert study.next() is None
        given.append([trial.params for trial in study.trials()])
    assert given[0] == given[1]


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_what_is_no_number_never_passes_a_rung(scheduler: str, value: float) -> None:
    study = open_study(InMemoryStorage(), simulated.config(trials=9, scheduler=scheduler))
    if scheduler == "median":
        for number in range(4):
            assert run_trial(study, [1.0 + number] * 9) == TrialState.COMPLETE
    assert run_trial(study, [value] * 9) == TrialState.PRUNED


def test_a_trial_at_its_end_is_not_stopped() -> None:
    study = open_study(InMemoryStorage(), simulated.config(trials=2))
    for value in (1.0, 2.0):
        trial = study.next()
        assert trial is not None
        assert not study.report(trial.number, simulated.LENGTH, value)
        study.complete(trial.number)
    assert [trial.value for trial in study.trials()] == [1.0, 2.0]


def test_points_that_were_not_run_are_next_and_have_the_types_of_their_keys() -> None:
    storage, space = InMemoryStorage(), parse(GRID, {})
    points: tuple[dict[str, Any], ...] = tuple(
        {"model.width": float(width), "loss.name": "hinge"} for width in (32, 8, 16)
    )
    for trials in (1, 2, 3):
        study = open_study(storage, SearchConfig(space=GRID, trials=trials, points=points), space)
        trial = study.next()
        assert trial is not None
        assert type(trial.params["model.width"]) is int
        study.report(trial.number, 3000, 1.0)
        study.complete(trial.number)
    assert [trial.params["model.width"] for trial in study.trials()] == [32, 8, 16]


def test_a_study_of_something_else_is_refused() -> None:
    storage = InMemoryStorage()
    create_study(storage=storage, study_name="s").optimize(lambda trial: trial.suggest_float("x", 0, 1), 2)
    with pytest.raises(ResumeError, match="not made by a search"):
        open_study(storage, simulated.config(trials=2))


@pytest.mark.parametrize("algorithm", ["tpe", "gp", "cmaes", "qmc", "random"])
def test_a_search_that_is_interrupted_draws_as_one_that_is_not(algorithm: Algorithm) -> None:
    keys = {
        "optim.g.lr": {"log": [1e-5, 1e-2]},
        "optim.g.beta2": {"uniform": [0.9, 0.999]},
        "model.width": {"int": [8, 64]},
    }
    trials = 13 if algorithm == "gp" else 24  # its first ten are random, the others take a second each
    search = SearchConfig(space=keys, algorithm=algorithm, trials=trials, scheduler="none")
    space, drawn = parse(keys, {}), []
    for interrupted in (False, True):
        storage = InMemoryStorage()
        study = open_study(storage, search, space)
        while (trial := study.next()) is not None:
            if interrupted and trial.number % 3 == 0:
                study = open_study(storage, search, space)
                assert study.next() is not None
            study.report(trial.number, 3000, abs(math.log10(trial.params["optim.g.lr"] / 3e-4)))
            study.complete(trial.number)
        drawn.append([trial.params for trial in study.trials()])
    assert drawn[0] == drawn[1]
    assert len({str(point) for point in drawn[0]}) == trials


def test_the_state_of_cmaes_runs_no_code(tmp_path: Path) -> None:
    class Fatal:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (tmp_path / "ran",)

    keys = {"optim.g.lr": {"log": [1e-5, 1e-2]}, "model.width": {"int": [8, 64]}}
    search = SearchConfig(space=keys, algorithm="cmaes", trials=3, scheduler="none")
    storage = InMemoryStorage()
    study = open_study(storage, search, parse(keys, {}))
    assert run_trial(study, [1.0]) == TrialState.COMPLETE
    trial = study.next()
    assert trial is not None
    trial.storage.set_trial_system_attr(1, "cma:optimizer:0", pickle.dumps(Fatal()).hex())
    study.report(1, 3000, 1.0)
    study.complete(1)
    with pytest.raises(StorageError, match=r"has .*Path\.touch|has builtins\.getattr"):
        study.next()
    assert not (tmp_path / "ran").exists()


def test_a_study_of_the_previous_version_goes_on() -> None:
    """Version 0.1 created trials with all their values, and judged them by rules of its own."""
    space = simulated.space()
    study = create_study(storage=(storage := InMemoryStorage()), study_name="s")
    study.set_user_attr("space", space.to_json())
    points = [space.normalise(point) for point in space.extreme_points()[:3]]
    for point in points:
        at: dict[str, BaseDistribution] = {key: space.distributions[key] for key in point}
        storage.create_new_trial(0, create_trial(state=TrialState.RUNNING, params=point, distributions=at))
    storage.set_trial_intermediate_value(0, 3008, 5.0)
    study.tell(0, 5.0)
    storage.set_trial_intermediate_value(1, 3008, 7.0)
    storage.set_trial_user_attr(1, STOPPED, 3008)
    again = open_study(storage, simulated.config(trials=6))
    resumed = [again.next(), again.next()]
    assert [(trial.number, trial.params) for trial in resumed if trial] == [(1, points[1]), (2, points[2])]
    assert again.report(1, 3008, 7.0)
    again.prune(1)
    assert not again.report(2, 3008, 6.0)
    simulated.run(again, 0, concurrent=1)
    assert [trial.state.is_finished() for trial in again.trials()] == [True] * 2 + [False] + [True] * 3


# Killed


DIVERGES = {
    "loss.name": "nonsaturating",
    "loss.r1": 0.3,
    "optim.g.beta2": 0.9,
    "optim.g.lr": 1e-2,
    "optim.d.lr": 1e-5,
    "optim.g.beta1": 0.5,
    "optim.d.beta1": 0.5,
}
"""Values with which a simulated trial fails before its first measurement."""


def search_slowly(folder: str) -> None:
    study = open_study(study_storage(folder, None), simulated.config(trials=60, points=(DIVERGES,)))
    report = study.report

    def slowly(number: int, step: int, value: float) -> bool:
        time.sleep(0.002)
        return report(number, step, value)

    study.report = slowly  # type: ignore[method-assign]
    simulated.run(study, 0, concurrent=4)


def require_kept(before: list[FrozenTrial], now: list[FrozenTrial]) -> None:
    """Require that trials are as they were, but for those that ran, which may have come further."""
    assert len(now) >= len(before)
    for old, new in zip(before, now, strict=False):
        assert old.params.items() <= new.params.items()
        assert old.intermediate_values.items() <= new.intermediate_values.items()
        assert not old.state.is_finished() or new == old


@pytest.mark.parametrize("count", [6, pytest.param(20, marks=pytest.mark.soak)])
def test_many_kills_lose_and_double_nothing(tmp_path: Path, count: int) -> None:
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload(["benchmarks.simulated", "gan_dist.search.study_storage"])
    draws = random.Random(1)
    journal = tmp_path / "study.journal"
    trials: list[FrozenTrial] = []
    kills = []
    for _ in range(count):
        # Counted in what it writes, since a busy machine may give it no time at all.
        last = records(journal) + draws.randrange(1, 600 // count)
        process = processes.Process(target=search_slowly, args=(str(tmp_path),))
        process.start()
        while process.is_alive() and records(journal) < last:
            time.sleep(0.001)
        process.kill()
        process.join()
        kills.append(process.exitcode)
        before, trials = trials, trials_of(tmp_path)
        require_kept(before, trials)
    assert set(kills) == {-signal.SIGKILL}
    assert any(trial.state.is_finished() for trial in trials)
    search_slowly(str(tmp_path))
    before, trials = trials, trials_of(tmp_path)
    require_kept(before, trials)
    assert [trial.number for trial in trials] == list(range(60))
    assert {trial.state for trial in trials} == {TrialState.COMPLETE, TrialState.PRUNED, TrialState.FAIL}
    assert (trials[0].params, trials[0].state) == (DIVERGES, TrialState.FAIL)
    for trial in trials:
        steps = sorted(trial.intermediate_values)
        assert steps == [simulated.EVERY * (index + 1) for index in range(len(steps))]
        assert trial.intermediate_values == {step: measured(trial, step) for step in steps}


def records(journal: Path) -> int:
    return journal.read_bytes().count(b"\n") if journal.exists() else 0


def measured(trial: FrozenTrial, step: int) -> float:
    return simulated.curve(trial.params, simulated.noise(0, trial.number)).at(step)


def trials_of(folder: Path) -> list[FrozenTrial]:
    try:
        return load_study(study_name="s", storage=study_storage(str(folder), None)).get_trials()
    except KeyError:  # killed before there was a study
        return []
