"""Populations on simulated curves: what is copied and explored, and kills at any write of the study."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from benchmarks.simulated_population import ENDS, EVERY, KEY, Simulation, best_constant, config
from gan_dist.config.search import SearchConfig
from gan_dist.core.errors import ConfigError
from gan_dist.search import explore
from gan_dist.search.display import _cells
from gan_dist.search.lineage import ancestry, lineage_values, lineages
from gan_dist.search.plan import make_plan
from gan_dist.search.population import LOST, Branch, Member
from gan_dist.search.space.distributions import Distribution, value_problem

SPACE: dict[str, Distribution] = {
    "optim.g.lr": FloatDistribution(1e-5, 1e-2, log=True),
    "optim.g.beta1": FloatDistribution(0.0, 0.9),
    "loss.r1": CategoricalDistribution([0.1, 0.3, 1.0]),
    "train.batch_size": IntDistribution(1, 9, step=2),
}


class KilledError(Exception):
    """The process ends here."""


class KilledStorage(InMemoryStorage):
    """A study whose process is killed before or after a write."""

    left = math.inf

    def _write(self, call: Callable[..., Any], *args: Any) -> Any:
        self.left -= 1
        if self.left == 0:
            raise KilledError
        found = call(*args)
        if self.left == 0.5:
            raise KilledError
        return found

    def set_trial_user_attr(self, *args: Any) -> None:
        self._write(super().set_trial_user_attr, *args)

    def set_trial_intermediate_value(self, *args: Any) -> None:
        self._write(super().set_trial_intermediate_value, *args)

    def set_trial_param(self, *args: Any) -> None:
        self._write(super().set_trial_param, *args)

    def set_trial_state_values(self, *args: Any, **more: Any) -> bool:
        return bool(self._write(lambda: super(KilledStorage, self).set_trial_state_values(*args, **more)))


def outcome(simulation: Simulation) -> dict[int, tuple[Any, ...]]:
    """Return what a search has left of each member."""
    trials = simulation.study.trials()
    return {
        trial.number: (trial.state, trial.params, trial.user_attrs, trial.intermediate_values)
        for trial in trials
    }


def continued(search: SearchConfig, seed: int) -> Simulation:
    """Run a search to its end whose process is killed at random writes."""
    storage, places, kills = KilledStorage(), random.Random(seed), 0
    while True:
        storage.left = places.choice([0, 0.5]) + places.randint(5, 60)
        try:
            (simulation := Simulation(search, storage)).run()
        except KilledError:
            kills += 1
        else:
            assert kills >= 5
            return simulation


@pytest.mark.parametrize("scheduler", ["pbt", "pb2"])
def test_a_search_killed_at_random_writes_decides_as_one_that_was_not(scheduler: str) -> None:
    search = config(1, scheduler, trials=4 if scheduler == "pb2" else 6)
    whole = Simulation(search, InMemoryStorage())
    whole.run()
    simulation = continued(search, 0)
    assert outcome(simulation) == outcome(whole)
    assert {trial.state for trial in simulation.study.trials()} == {TrialState.COMPLETE}
    for trial in simulation.study.trials():
        assert sorted(trial.intermediate_values) == ENDS


def test_asynchronous_members_that_are_killed_are_all_trained_to_the_end() -> None:
    simulation = continued(config(2, synch=False), 1)
    assert {trial.state for trial in simulation.study.trials()} == {TrialState.COMPLETE}
    assert any(len(Member.of(trial).branches) > 1 for trial in simulation.study.trials())


def test_the_worst_copy_the_best_and_the_rest_go_on() -> None:
    simulation = Simulation(config(0), InMemoryStorage())
    values = {number: 10.0 + number for number in range(8)}
    for number in range(8):
        task = simulation.population.next(range(number))
        assert task is not None
        assert (task.branch.member, task.end) == (number, EVERY)
    for number, value in values.items():
        assert simulation.population.decide() == []  # in lock step not before all are there
        simulation.study.report(number, EVERY, value)
    begun = simulation.population.decide()
    assert [(one.name, one.images) for one in begun] == [("00006-1", EVERY), ("00007-1", EVERY)]
    assert {one.parent for one in begun} <= {"00000", "00001"}
    assert simulation.population.decide() == []
    tasks = [simulation.population.next(range(number)) for number in range(8)]
    names = [task.branch.name for task in tasks if task is not None]
    assert names == [*(f"{number:05d}" for number in range(6)), "00006-1", "00007-1"]


def test_a_member_that_failed_goes_on_from_another_and_a_population_without_any_ends() -> None:
    simulation = Simulation(config(0, trials=3), InMemoryStorage())
    simulation.study.note(0, f"{LOST} {EVERY}", "NonFiniteError: ...")
    simulation.study.report(1, EVERY, math.nan)
    simulation.study.report(2, EVERY, 5.0)
    begun = simulation.population.decide()
    assert [(one.member, one.parent) for one in begun] == [(0, "00002"), (1, "00002")]
    lost = Simulation(config(0, trials=3), InMemoryStorage())
    for number in range(3):
        lost.study.note(number, f"{LOST} {EVERY}", "NonFiniteError: ...")
    assert lost.population.decide() == []
    assert lost.population.next() is None
    assert {trial.state for trial in lost.study.trials()} == {TrialState.FAIL}


@given(
    seed=st.integers(0, 2**32 - 1),
    member=st.integers(0, 99),
    rate=st.floats(1e-5, 1e-2),
    beta=st.floats(0, 0.9),
)
def test_explored_values_are_near_or_drawn_anew_and_a_function_of_their_key(
    seed: int, member: int, rate: float, beta: float
) -> None:
    values = {KEY: rate, "optim.g.beta1": beta, "loss.r1": 0.3, "train.batch_size": 5}
    found = explore.perturb(SPACE, values, seed, member, 1000)
    assert found == explore.perturb(SPACE, values, seed, member, 1000)
    for key, at in SPACE.items():
        assert value_problem(key, at, found[key]) is None
        assert explore.from_unit(at, explore.to_unit(at, found[key])) == pytest.approx(found[key])
    near = {min(max(rate * factor, 1e-5), 1e-2) for factor in (0.8, 1.2)}
    redrawn = explore.uniform(12, seed, "pbt explore", member, 1000)[0] < explore.RESAMPLED
    assert redrawn or found[KEY] in near


def test_a_gaussian_process_finds_where_the_gains_are_now() -> None:
    space = {KEY: SPACE[KEY]}
    rates = [10**-exponent for exponent in (4.8, 4.2, 3.6, 3.0, 2.4)]
    # The best rate was 10^-3, and has become 10^-4.
    tried = [
        (float(time), {KEY: rate}, math.exp(-((math.log10(rate) + 3 + time / 10) ** 2) / 0.1))
        for time in range(10)
        for rate in rates
    ]
    chosen = [float(str(explore.choose(space, tried, [], 10.0, seed, 1, 1)[KEY])) for seed in range(5)]
    assert all(10**-4.5 < rate < 10**-3.5 for rate in chosen)
    # Where little is known, members go to different places; by the paper's kernel what is old counts less.
    little = [(float(time), {KEY: 10**-3.5}, gain) for time, gain in ((0, 0.1), (1, 0.2))]
    one = explore.choose(space, little, [], 2.0, 0, 1, 1)
    other = explore.choose(space, little, [one], 2.0, 0, 1, 1)
    assert abs(explore.to_unit(space[KEY], one[KEY]) - explore.to_unit(space[KEY], other[KEY])) > 0.1
    kernel = explore._kernel(np.array([[1.0, 0.2, 0.5]]), np.array([[4.0, 0.5, 0.1]]), 0.4, 0.2)
    assert kernel[0, 0] == pytest.approx(math.exp(-(0.3**2 + 0.4**2) / (2 * 0.4**2)) * 0.8**1.5)


def test_a_lineage_has_the_values_of_every_branch_from_its_moment_on() -> None:
    simulation = Simulation(config(3), InMemoryStorage())
    simulation.run()
    trials = simulation.study.trials()
    best = min((Member.of(trial) for trial in trials), key=lambda one: one.value(ENDS[-1])).branch()
    chain = ancestry(trials, best.name)
    assert [one.images for one in chain] == sorted({one.images for one in chain})
    expected = {one.images / 1000: one.values[KEY] for one in chain}
    assert lineage_values(trials, best.name) == {KEY: expected}
    assert len(expected) > 3
    # The table shows the values with which a member trains now.
    assert _cells(trials[best.member])[4] == f"{KEY}={float(str(best.values[KEY])):.3g}"
    # The tree has every branch once, and every measurement once.
    nodes = lineages(trials)
    found: list[Branch] = []
    measured = 0
    while nodes:
        node = nodes.pop()
        found.append(node.branch)
        measured += len(node.curve)
        nodes += node.children
    assert sorted(one.name for one in found) == sorted(simulation.branches())
    assert measured == len(ENDS) * len(trials)


def test_a_population_follows_an_optimum_that_moves() -> None:
    won = 0
    for seed in range(4):
        simulation = Simulation(config(seed), InMemoryStorage())
        simulation.run()
        lowest = min(simulation.distance(name, ENDS[-1]) for name in simulation.branches())
        won += lowest < best_constant()
    assert won >= 3


PBT = ["search.scheduler=pbt", "search.trials=4", "search.algorithm=random"]
RATES = "search.space={optim.g.lr: {log: [1e-4, 1e-3]}}"


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ([], "cannot change; those that can are optim.g.lr"),
        ([RATES, "search.trials=1"], "search.trials=1 is the size of the population"),
        ([RATES, "search.perturb_kimg=4"], "eval.every_kimg=3 = 1.33333: members are compared by"),
        ([RATES, "search.perturb_kimg=81"], "every 81 kimg, and end after train.kimg=81"),
        ([RATES, "search.replicates=1"], "lineage.yaml with another seed"),
        ([RATES, "eval.patience=3"], "eval.patience=3 ends runs early"),
        (
            ["search.space={optim.g.lr: [1e-3, 1e-4]}", "search.algorithm=grid"],
            "search.algorithm=grid tries all combinations",
        ),
        ([RATES, "search.algorithm=cmaes"], "cmaes learns from measurements, and search.scheduler=pbt draws"),
        ([RATES, "search.reduction=2"], "search.reduction=2 is for asha, hyperband; search.scheduler=pbt"),
        ([RATES, "search.grace_kimg=81"], "after train.kimg=81, so that search.scheduler=pbt lets none copy"),
        ([RATES, "optim.g.lr={0: 1e-3, 9: 1e-4}"], "optim.g.lr has values by kimg"),
        ([RATES, "eval.every_kimg=0.001"], "train.kimg=81 / 0.001 = 8.1e+04 comparisons of the members"),
        (["search.space={loss.r1: {uniform: [0, 1]}}"], "loss.r1 may come to be 0"),
        (
            ["search.space={loss.gp: [1, 2], loss.r1: {log: [1, 2], when: {loss.gp: 1}}}"],
            "needs the same keys in every member; not so loss.r1",
        ),
    ],
)
def test_what_a_population_cannot_do_is_said_before_it_starts(overrides: list[str], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        make_plan("search-digits", [*PBT, *overrides])
    assert said in str(caught.value)


def test_intervals_end_at_whole_rounds_of_the_run() -> None:
    plan = make_plan(
        "search-digits", [*PBT, RATES, "train.kimg=10", "eval.every_kimg=2", "search.perturb_kimg=4"]
    )
    assert plan.ends == [4032, 8000, 10048]  # of 64 images
    plan = make_plan("search-digits", [*PBT, RATES, "train.kimg=9"])
    assert plan.ends == [3008, 6016, 9024]
