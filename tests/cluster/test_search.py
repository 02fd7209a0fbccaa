"""Searches on a real local Ray: every trial accounted for, whatever becomes of it."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import ray
from optuna.trial import FrozenTrial, TrialState
from ray._private.state import actors
from ray.util import placement_group_table

from gan_dist.artifacts.records import read_records
from gan_dist.cluster.tune import driver
from gan_dist.core.errors import ClusterError
from gan_dist.search.display import SearchView
from gan_dist.search.plan import Plan, begin, make_plan
from gan_dist.search.study import SearchStudy
from gan_dist.search.study_storage import study_storage

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

SMALL = [
    *("model.width=4", "model.max_width=8", "model.latent_dim=4", "train.batch_size=32", "eval.samples=64"),
    *("train.kimg=0.512", "eval.every_kimg=0.064", "search.trials=6"),
]
SPACE = "search.space={optim.g.lr: {log: [1e-4, 1e-3]}, loss.name: [nonsaturating, rpgan]}"


def plan_of(folder: Path, *overrides: str, space: str = SPACE) -> Plan:
    places = [f"storage={folder}", "name=search", space]
    return make_plan("search-digits", [*SMALL, *places, *overrides])


def run(plan: Plan, metric: str = "fd_digits") -> list[FrozenTrial]:
    begin(plan, metric)
    study = SearchStudy(study_storage(plan.uri, None), "search", plan.space, plan.search, plan.grace)
    with SearchView(study, plan.search.trials, 512, metric) as view:
        driver.run(plan, study, metric, view.update)
    assert study.unfinished == 0
    return study.trials()


def curve(plan: Plan, number: int, metric: str = "fd_digits") -> dict[int, float]:
    """Return what a trial's own records tell."""
    records = read_records(f"{plan.uri}/trials/{number:05d}")
    return {record["images"]: record[metric] for record in records if metric in record}


def test_the_study_tells_what_the_trials_recorded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = plan_of(tmp_path)
    trials = run(plan)
    assert [trial.number for trial in trials] == list(range(6))
    states = [trial.state for trial in trials]
    assert set(states) == {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        assert trial.intermediate_values == curve(plan, trial.number)
        config = (tmp_path / f"search/trials/{trial.number:05d}/config.yaml").read_text()
        assert f"lr: {trial.params['optim.g.lr']}" in config
        if trial.state == TrialState.COMPLETE:
            assert trial.value == min(trial.intermediate_values.values())
            assert max(trial.intermediate_values) == 512
        else:
            assert max(trial.intermediate_values) < 512
    # What is left: the study, the trials, the search; nothing of Tune's own.
    left = {path.name for path in (tmp_path / "search").iterdir()}
    assert left == {"study.journal", "trials", "search.json", "config.yaml"}
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("trial ")]
    assert len(lines) == 6
    assert "6/6 trials" in lines[-1]
    # The same again does nothing, and more trials go on from there.
    more = run(plan_of(tmp_path, "search.trials=7"))
    assert [trial.params for trial in more[:6]] == [trial.params for trial in trials]
    assert len(more) == 7


def test_a_trial_that_is_not_finite_fails_and_the_search_goes_on(tmp_path: Path) -> None:
    space = "search.space={optim.d.lr: [2e-4, 1e30]}"
    points = "search.points=[{optim.d.lr: 1e30}, {optim.d.lr: 2e-4}]"
    failed, fine = run(plan_of(tmp_path, points, "search.trials=2", "search.scheduler=none", space=space))
    assert (failed.state, fine.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert failed.user_attrs["reason"].startswith("NonFiniteError: ")


@pytest.mark.soak
def test_a_search_by_what_its_runs_do_not_measure_ends_with_the_first_of_them(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "search.concurrent=1", "train.kimg=0.064")
    with pytest.raises(ClusterError, match=r"trial 0 .* a measurement of fid; .* have diversity, fd_dig"):
        run(plan, metric="fid")
    (trial,) = SearchStudy(
        study_storage(plan.uri, None), "search", plan.space, plan.search, plan.grace
    ).trials()
    assert trial.state == TrialState.FAIL


def test_a_trial_whose_process_dies_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    fatal = "eval.extractor=tests.extractors:Fatal"
    plan = plan_of(tmp_path, fatal, "search.trials=1", "search.scheduler=none")
    (trial,) = run(plan, metric="fd_fatal")
    assert (Path(os.environ["RAY_TMPDIR"]) / "fatal-once").exists()
    assert trial.state == TrialState.COMPLETE
    assert trial.intermediate_values == curve(plan, 0, "fd_fatal")
    assert sorted(trial.intermediate_values) == list(range(64, 513, 64))


def living() -> set[str]:
    """Return the actors that live, but for those that Ray keeps for itself beyond any job."""
    return {name for name, one in actors().items() if one["State"] != "DEAD" and not one["IsDetached"]}


def assert_nothing_is_held(before: set[str]) -> None:
    """No placement group, no CPU, no actor but those that were there before."""
    held = [group for group in placement_group_table().values() if group["state"] != "REMOVED"]
    assert held == []
    deadline = time.monotonic() + 60
    while left := living() - before:
        assert time.monotonic() < deadline, [actors(name) for name in left]
        time.sleep(0.5)
    assert ray.available_resources()["CPU"] == 2


def test_a_trial_of_two_workers_ends_and_holds_nothing(tmp_path: Path) -> None:
    before = living()
    (trial,) = run(plan_of(tmp_path, "scale.workers=2", "search.trials=1", "train.kimg=0.128"))
    assert trial.state == TrialState.COMPLETE
    assert sorted(trial.intermediate_values) == [64, 128]
    assert_nothing_is_held(before)
    assert json.loads((tmp_path / "search/search.json").read_text())["metric"] == "fd_digits"


@pytest.mark.soak
def test_twenty_trials_of_two_workers_one_after_another_hold_nothing(tmp_path: Path) -> None:
    before = living()
    # One rung, at the second of three measurements; by then a lower rate has always come less far.
    length = ["train.kimg=0.192", "search.grace_kimg=0.128", "search.reduction=2"]
    rates = [1e-4 + 1e-6 * number if number % 2 else 6e-4 + 2e-5 * number for number in range(20)]
    points = ", ".join(f"{{optim.g.lr: {rate:g}, loss.name: rpgan}}" for rate in rates)
    settings = [*length, f"search.points=[{points}]", "scale.workers=2", "search.trials=20"]
    trials = run(plan_of(tmp_path, *settings))
    assert [trial.state for trial in trials] == [TrialState.COMPLETE, TrialState.PRUNED] * 10
    assert_nothing_is_held(before)
