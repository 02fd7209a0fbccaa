"""Several objectives: the order is that of brute force, rungs stop by it, and a kill changes no decision."""

from __future__ import annotations

import io
import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.storages import InMemoryStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState
from typer.testing import CliRunner

from benchmarks import simulated
from gan_dist.artifacts.objectives import Objectives, Point
from gan_dist.artifacts.records import read_records
from gan_dist.cli import app
from gan_dist.core.errors import ConfigError, ResumeError
from gan_dist.search.display import SearchView
from gan_dist.search.plan import make_plan, with_objectives
from gan_dist.search.start import begin
from gan_dist.search.study import SearchStudy
from gan_dist.search.study_storage import study_storage
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from gan_dist.training.preflight import summarise
from tests.support.searches import trial_uri, write_run
from tests.unit.search.test_study import interrupt

BOTH: dict[str, Any] = {"fd": "min", "coverage": "max"}
THREE: dict[str, Any] = {"a": "min", "b": "max", "c": "min", "limit": {"above": -1}, "other": {"below": 1}}


def open_study(storage: InMemoryStorage, objectives: Mapping[str, Any] = BOTH, **more: Any) -> SearchStudy:
    search = simulated.config(objectives=objectives, **more)
    return SearchStudy(storage, "s", simulated.space(), search, simulated.EVERY, simulated.LENGTH)


def report(study: SearchStudy, number: int, images: int, fd: float, coverage: float, **more: float) -> bool:
    study.measure(number, images, {"fd": fd, "coverage": coverage, **more})
    return study.report(number, images, fd)


def brute_force(objectives: Objectives, points: Sequence[Point]) -> list[tuple[float, int, float]]:
    """Return violation, rank and negative crowding distance of each point, by their definitions."""

    def losses(point: Point) -> list[float]:
        return [-point[name] if mode == "max" else point[name] for name, mode in objectives.modes.items()]

    def dominates(one: Point, other: Point) -> bool:
        pairs = list(zip(losses(one), losses(other), strict=True))
        return all(a <= b for a, b in pairs) and any(a < b for a, b in pairs)

    violations = [
        sum(
            max(0.0, limit - point[name] if side == "above" else point[name] - limit)
            for name, (side, limit) in objectives.bounds.items()
        )
        for point in points
    ]
    left = {at for at, violation in enumerate(violations) if violation == 0}
    found = [(violation, 0, 0.0) for violation in violations]
    rank = 0
    while left:
        front = {at for at in left if not any(dominates(points[other], points[at]) for other in left)}
        vectors = {tuple(losses(points[at])) for at in front}
        for at in front:
            own, distance = losses(points[at]), 0.0
            for axis in range(len(own)):
                order = sorted(vectors, key=lambda one: (one[axis], one))
                place = order.index(tuple(own))
                if place in (0, len(order) - 1):
                    distance = math.inf
                elif order[-1][axis] > order[0][axis]:
                    gap = order[place + 1][axis] - order[place - 1][axis]
                    distance += gap / (order[-1][axis] - order[0][axis])
            found[at] = (0.0, rank, -distance)
        left -= front
        rank += 1
    return found


@settings(max_examples=200, deadline=None)
@given(st.lists(st.tuples(*[st.integers(-3, 3)] * 5), max_size=12))
def test_the_order_of_trials_is_that_of_brute_force(rows: list[tuple[int, ...]]) -> None:
    objectives = Objectives.parse(THREE)
    assert objectives is not None
    points = [dict(zip(THREE, map(float, row), strict=True)) for row in rows]
    slow = brute_force(objectives, points)
    fast = objectives.standings(points)
    assert [one[:2] for one in fast] == [one[:2] for one in slow]
    assert [one[2] for one in fast] == pytest.approx([one[2] for one in slow])
    front, others = objectives.order(points, "b")
    assert sorted(front + others) == list(range(len(points)))
    assert {*front} == {at for at, one in enumerate(slow) if one[:2] == (0.0, 0)}
    assert [points[at]["b"] for at in front] == sorted((points[at]["b"] for at in front), reverse=True)


def test_a_trial_goes_on_if_it_is_among_the_best_of_its_rung_by_rank() -> None:
    study = open_study(InMemoryStorage(), {**BOTH, "quality": {"above": 0}}, trials=20)
    for _ in range(9):
        study.next()
    told = [
        (5.0, 0.5, 1.0, False),  # the first
        (6.0, 0.4, 1.0, True),  # dominated
        (6.0, 0.6, 1.0, False),  # on the front, and as far out as the first
        (1.0, 0.9, -1.0, True),  # the best, but for the constraint
        (5.5, 0.55, 1.0, True),  # on the front between two others, where one of five goes on
        (4.0, 0.7, 1.0, False),  # dominates all
        (math.nan, 0.9, 1.0, True),
        (4.5, 0.65, 1.0, False),  # second of eight, of which two go on
        (4.6, 0.64, 1.0, False),  # third of nine, of which three do: one without a value counts
    ]
    stopped = [report(study, at, 3000, fd, cover, quality=q) for at, (fd, cover, q, _) in enumerate(told)]
    assert stopped == [stops for *_, stops in told]
    assert not report(study, 0, 6000, 99.0, 0.0, quality=1.0)  # no rung is there
    assert not report(study, 0, 9000, 99.0, 0.1, quality=1.0)
    assert report(study, 2, 9300, 99.5, 0.1, quality=1.0)  # the first measurement at or after the rung counts
    assert not report(study, 5, simulated.LENGTH, 100.0, 0.0, quality=1.0)


def test_what_is_in_the_study_is_what_the_releases_measured(recwarn: pytest.WarningsRecorder) -> None:
    storage = InMemoryStorage()
    study = open_study(storage, {"coverage": "max", "fd": "min", "z": {"above": -3}}, trials=3, target=0.8)
    for number, (z, coverage) in enumerate([(-2.0, 0.5), (-4.5, 0.9)]):
        study.next()
        report(study, number, 3000, 9.0, coverage, z=z)
        report(study, number, 81_000, 4.0, coverage, z=z)
        report(study, number, 82_000, 7.0, 0.95, z=-9.0)  # later, and no release
        study.complete(number)
    assert not study.target_reached  # the better one violates the constraint
    assert [trial.number for trial, _ in study.front()] == [0]
    study.next()
    report(study, 2, 3000, 9.0, 0.8, z=0.0)
    assert (study.target_reached, study.next()) == (True, None)
    study.prune(2)
    read = optuna.load_study(study_name="s", storage=storage)
    assert read.directions == [StudyDirection.MAXIMIZE, StudyDirection.MINIMIZE]
    assert read.metric_names == ["coverage", "fd"]
    assert [trial.values for trial in read.trials] == [[0.5, 4.0], [0.9, 4.0], None]
    assert [trial.constraints for trial in read.trials] == [{"z": -1.0}, {"z": 1.5}, {}]
    assert [trial.number for trial in read.best_trials] == [0]
    # On the front is also a trial that was stopped: it has a release.
    assert [(trial.number, point["coverage"]) for trial, point in study.front()] == [(2, 0.8), (0, 0.5)]
    with pytest.raises(ResumeError, match="by one with other objectives"):
        open_study(storage, BOTH)
    assert not recwarn.list


@pytest.mark.parametrize("algorithm", ["tpe", "random", "qmc", "gp"])
def test_a_search_that_is_interrupted_decides_as_one_that_is_not(algorithm: str) -> None:
    """Each call of the second search may be the last one of its process."""
    keys = {"optim.g.lr": {"log": [1e-5, 1e-2]}, "model.width": {"int": [8, 64]}}
    trials = 12 if algorithm == "gp" else 30
    at_once, often = (_searched(keys, trials, algorithm, kills) for kills in (False, True))
    assert {trial.state for trial in often} == {TrialState.COMPLETE, TrialState.PRUNED}
    assert len({str(trial.params) for trial in often}) == trials
    for one, other in zip(at_once, often, strict=True):
        assert (one.params, one.state, one.intermediate_values) == (
            other.params,
            other.state,
            other.intermediate_values,
        )


def _searched(keys: dict[str, Any], trials: int, algorithm: str, kills: bool) -> list[FrozenTrial]:
    from gan_dist.search.space.parse import parse

    storage = InMemoryStorage()
    search = simulated.config(objectives=BOTH, trials=trials, algorithm=algorithm)

    def opened() -> SearchStudy:
        return SearchStudy(storage, "s", parse(keys, {}), search, 3000, 27_000)

    study = opened()
    while (trial := study.next()) is not None:
        off = abs(math.log10(trial.params["optim.g.lr"] / 3e-4))
        for images in range(3000, 27_001, 3000):
            if kills:
                with pytest.MonkeyPatch.context() as patch, suppress(InterruptedError):
                    # What is killed before the distance is stored is measured again.
                    patch.setattr(storage, "set_trial_intermediate_value", interrupt)
                    report(study, trial.number, images, 1 + off, 0.5)
                study = opened()
                assert study.next() is not None
            fd, coverage = 1 + off + 30 / images, trial.params["model.width"] / 64 + off
            if report(study, trial.number, images, fd, coverage):
                study.prune(trial.number)
                break
        else:
            study.complete(trial.number)
    return study.trials()


def test_what_was_stored_and_not_judged_goes_on_and_what_was_to_stop_stops() -> None:
    storage = InMemoryStorage()
    study = open_study(storage, trials=2)
    study.next()
    study.next()
    report(study, 0, 3000, 1.0, 0.9)
    with pytest.MonkeyPatch.context() as patch, suppress(InterruptedError):
        patch.setattr(storage, "set_trial_user_attr", interrupt)
        report(study, 1, 3000, 2.0, 0.8)
    study = open_study(storage, trials=2)
    assert not report(study, 1, 3000, 0.0, 1.0)
    assert not report(study, 0, 9000, 1.0, 0.9)
    assert report(study, 1, 9000, 2.0, 0.8)
    again = open_study(storage, trials=2)
    assert report(again, 1, 9000, 0.0, 1.0)
    assert again.trials()[1].system_attrs["point:9000"] == {"fd": 2.0, "coverage": 0.8}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search.objectives={fd_digits: low}"], "search.objectives: fd_digits: low; give min, max, {above"),
        (["search.objectives={fd_digits: {above: .nan}}"], "fd_digits: {'above': nan}; give min"),
        (["search.objectives={diversity: {above: 1, below: 2}}"], "give min, max, {above: NUMBER}"),
        (["search.objectives={diversity: {above: 0.5}}"], "has constraints only: diversity; add what is min"),
        (
            ["search.algorithm=cmaes", "search.space={optim.g.lr: {log: [1.0e-4, 1.0e-3]}}"],
            "algorithm=cmaes is for one objective, and there is search.objectives; use search.algorithm=tpe "
            "or gp or qmc or random or grid",
        ),
        (["search.scheduler=median"], "use search.scheduler=asha or none"),
        (["search.replicates=2"], "search.replicates=2 is for one objective"),
        (
            ["search.objectives={fid: min, coverage_digits: max, copied: {above: -3}}"],
            "no trial reports fid, copied; with eval.extractor=digits they can report fd_digits, diversity, "
            "modes, kid_digits, coverage_digits, copying_z, images_per_second; name some of these",
        ),
    ],
)
def test_objectives_that_cannot_be_are_said_before_anything_starts(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    settings = ["search.objectives={fd_digits: min, diversity: max}", "eval.metrics=[kid]", *overrides]
    with pytest.raises(ConfigError) as caught:
        with_objectives(make_plan("search-digits", [f"storage={tmp_path}", *settings]), *_reported())
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def _reported() -> tuple[str, tuple[str, ...], dict[str, str]]:
    more = {"coverage_digits": "dc", "copying_z": "memorisation"}
    return "fd_digits", ("fd_digits", "diversity", "modes", "kid_digits"), more


def test_trials_measure_what_objectives_ask_for(tmp_path: Path) -> None:
    objectives = "search.objectives={fd_digits: min, coverage_digits: max, copying_z: {above: -3}}"
    given_settings = [f"storage={tmp_path}", objectives, "eval.metrics=[kid]", "train.kimg=0.064"]
    plan = make_plan("search-digits", [*given_settings, "eval.every_kimg=0.064", "eval.samples=64"])
    summary = summarise(plan.config)
    plan = with_objectives(plan, summary.metric, summary.scores, summary.more_scores)
    trial = plan.trial(0, {"optim.g.lr": 1e-3})
    assert plan.config.eval.metrics == trial.eval.metrics == ("kid", "dc", "memorisation")
    torch.set_num_threads(1)
    train(trial, LocalContext(trial.run_uri))
    measured = Objectives.parse(plan.search.objectives)
    assert measured is not None
    assert any(measured.point(record) for record in read_records(trial.run_uri))


def test_a_search_that_has_ended_prints_its_front(tmp_path: Path) -> None:
    arguments = [f"storage={tmp_path}", "search.trials=3", "eval.metrics=[kid]", "name=search"]
    arguments.append("search.objectives={fd_digits: min, modes: max, kid_digits: {below: 1}}")
    plan = make_plan("search-digits", arguments)
    owner = begin(plan, "fd_digits")
    study = SearchStudy(
        study_storage(plan.uri, None), "search", plan.space, plan.search, plan.grace, 81_000, owner
    )
    screen = io.StringIO()
    with SearchView(study, 3, 81_000, "fd_digits", screen) as view:
        for number, (fd, modes, kid) in enumerate([(4.0, 9, 0.5), (5.0, 8, 0.5), (6.0, 10, 0.5)]):
            study.next()
            record = {"images": 81_000, "fd_digits": fd, "modes": modes, "kid_digits": kid}
            study.measure(number, 81_000, record)
            study.report(number, 81_000, fd)
            study.complete(number)
            write_run(trial_uri(plan.uri, number), [record], record)
            view.update()
    assert "3/3 trials  front of 2, at best fd_digits 4.000, modes 10.000" in screen.getvalue()
    result = CliRunner().invoke(app, ["tune", "search-digits", *arguments, "--json"], catch_exceptions=False)
    lines = result.stdout.splitlines()
    assert lines[2:4] == [
        "  front: trial 0, fd_digits 4, modes 9, kid_digits 0.5",
        "  front: trial 2, fd_digits 6, modes 10, kid_digits 0.5",
    ]
    assert json.loads(lines[-1])["front"] == [
        {"trial": 0, "values": {"fd_digits": 4.0, "modes": 9.0, "kid_digits": 0.5}},
        {"trial": 2, "values": {"fd_digits": 6.0, "modes": 10.0, "kid_digits": 0.5}},
    ]


def test_the_objectives_of_a_search_stay_and_the_distance_alone_is_none(tmp_path: Path) -> None:
    def plan(objectives: str) -> Any:
        given = [f"storage={tmp_path}", f"search.objectives={objectives}"]
        return with_objectives(make_plan("search-digits", given), *_reported())

    assert plan("{fd_digits: min}").search.objectives is None
    begin(plan("{fd_digits: min, modes: max}"), "fd_digits")
    begin(plan("{fd_digits: min, modes: max}"), "fd_digits")
    for other in ("{fd_digits: min, diversity: max}", "{fd_digits: min}", "{modes: max, fd_digits: min}"):
        with pytest.raises(ResumeError, match=r"search\.objectives was .*modes.*, is now"):
            begin(plan(other), "fd_digits")
