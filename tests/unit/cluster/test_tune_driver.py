"""What a search on Ray Tune stores and shows of its trials, without Ray."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import Trial, TrialState
from ray.tune.execution import class_cache

from gan_dist.cluster.tune import driver
from gan_dist.cluster.tune.driver import _StudyTrials
from gan_dist.core.errors import ClusterError
from gan_dist.search.display import SearchView
from gan_dist.search.plan import Plan, make_plan
from gan_dist.search.study import SearchStudy
from tests.support.ports import free_port
from tests.support.searches import record, trial_uri, write_run

Result = dict[str, object] | None


def started(folder: Path, trials: int, **values: object) -> tuple[Plan, SearchStudy]:
    """Return a search, with values that its trials get beyond those that were checked at its start."""
    overrides = [f"storage={folder}", f"search.trials={trials}", "train.batch_size=64"]
    plan = make_plan("search-digits", overrides)
    later = {key.replace("__", "."): value for key, value in values.items()}
    plan = replace(plan, settings=plan.settings.with_values(later))
    return plan, SearchStudy(InMemoryStorage(), "search", plan.space, plan.search, plan.grace)


@pytest.mark.parametrize("trials", [1, 3])
def test_trials_that_cannot_be_begun_are_shown_as_failed_with_the_reason(tmp_path: Path, trials: int) -> None:
    plan, study = started(tmp_path, trials, scale__workers=3)
    shown = io.StringIO()
    with SearchView(study, trials, 1000, "fd_digits", shown) as view:
        source = _StudyTrials(plan, study, "fd_digits", view.update)
        assert source.next_run("first") is None
    lines = [line for line in shown.getvalue().splitlines() if line.startswith("trial ")]
    assert len(lines) == trials
    assert lines[-1].startswith(f"trial {trials - 1} failed")
    assert "64 / 3 = 21.3" in shown.getvalue()
    assert f"[{trials}/{trials} trials  0 running, 0 stopped early, {trials} failed" in shown.getvalue()


@pytest.mark.parametrize(
    ("result", "died", "reason"),
    [
        ({"done": True, "failed": "NonFiniteError: the loss"}, False, "NonFiniteError: the loss"),
        (None, True, "its process failed 3 times"),
        ({"done": True}, False, "it ended without a finite measurement"),
    ],
)
def test_the_last_trial_is_shown_as_failed_however_it_failed(
    tmp_path: Path, result: Result, died: bool, reason: str
) -> None:
    plan, study = started(tmp_path, 1)
    shown = io.StringIO()
    with SearchView(study, 1, 1000, "fd_digits", shown) as view:
        source = _StudyTrials(plan, study, "fd_digits", view.update)
        assert source.next_run("only") is not None
        source.on_end("only", result, died=died)
    (trial,) = study.trials()
    assert trial.state == TrialState.FAIL
    (line,) = shown.getvalue().splitlines()
    assert line.startswith("trial 0 failed")
    assert f"({reason})" in line
    assert "[1/1 trials  0 running, 0 stopped early, 1 failed" in line


def test_a_trial_that_is_stopped_is_pruned_and_one_that_ends_is_complete(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan, study = started(tmp_path, 2)
    shown = io.StringIO()
    view = SearchView(study, 2, 10_000, "fd_digits", shown)
    source = _StudyTrials(plan, study, "fd_digits", view.update)
    for name in ("first", "second"):
        assert source.next_run(name) is not None
    monkeypatch.setattr(Trial, "should_prune", lambda _: True)
    assert source.on_result("first", {"images": 64, "value": 2.0})
    monkeypatch.undo()
    assert not source.on_result("second", {"images": 64, "value": 1.0})
    for name in ("first", "second"):
        source.on_end(name, {"done": True}, died=False)
    assert [trial.state for trial in study.trials()] == [TrialState.PRUNED, TrialState.COMPLETE]
    assert study.trials()[1].value == 1.0
    assert "0 kimg trained, 10 saved" in shown.getvalue()


def test_a_search_by_what_its_runs_do_not_measure_starts_no_more_of_them(tmp_path: Path) -> None:
    plan, study = started(tmp_path, 3)
    source = _StudyTrials(plan, study, "fid", lambda: None)
    assert source.next_run("first") is not None
    assert source.next_run("second") is not None
    write_run(trial_uri(plan.uri, 0), [record(64, 2.0)])
    source.on_end("first", {"done": True}, died=False)
    assert isinstance(source.error, ClusterError)
    assert "trial 0 ended without a measurement of fid; its records have fd_digits" in str(source.error)
    assert source.on_result("second", {"images": 64})
    assert source.next_run("third") is None


def test_credentials_of_this_process_are_copied_into_no_trial(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runtime environments are in Ray's logs and on its dashboard."""
    plan, study = started(tmp_path, 1)
    monkeypatch.setattr(class_cache, "ENV_VARS_TO_PROPAGATE", {"AWS_SECRET_ACCESS_KEY", "RAY_OTHER"})
    monkeypatch.setattr(driver, "QUIET", {})
    monkeypatch.setenv("RAY_ADDRESS", f"127.0.0.1:{free_port()}")
    with pytest.raises(ClusterError, match="nobody answers there"):
        driver.run(plan, study, "fd_digits", lambda: None)
    left = class_cache.ENV_VARS_TO_PROPAGATE
    assert left == {"RAY_OTHER"}
