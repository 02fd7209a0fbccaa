"""What a search on Ray Tune stores and shows of its trials, without Ray."""

from __future__ import annotations

import io
import os
import pickle
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import Trial, TrialState
from ray.tune.execution import class_cache
from ray.tune.schedulers import TrialScheduler
from ray.tune.search import Searcher

from gan_dist.cluster.tune import driver
from gan_dist.cluster.tune.driver import _Replicas, _Scheduler, _Searcher, _StudyTrials
from gan_dist.cluster.tune.source import TrialSource
from gan_dist.cluster.tune.spending import Spending
from gan_dist.cluster.tune.trial import _TrialRun
from gan_dist.config import RunConfig
from gan_dist.core.errors import ClusterError, DamagedDataError, NonFiniteError, StorageError
from gan_dist.data.shards.rows import Rows
from gan_dist.data.shards.shard_set import write_set
from gan_dist.search.budget import Ledger
from gan_dist.search.display import SearchView
from gan_dist.search.plan import Plan, make_plan
from gan_dist.search.study import SearchStudy
from gan_dist.search.study_storage import study_storage
from tests.support.disks import largest_file
from tests.support.ports import free_port
from tests.support.searches import record, trial_uri, write_run

Result = dict[str, object] | None
FINISHED: Any = Searcher.FINISHED


def started(folder: Path, trials: int, **values: object) -> tuple[Plan, SearchStudy]:
    """Return a search, with values that its trials get beyond those that were checked at its start."""
    overrides = [f"storage={folder}", f"search.trials={trials}", "train.batch_size=64"]
    plan = make_plan("search-digits", overrides)
    later = {key.replace("__", "."): value for key, value in values.items()}
    plan = replace(plan, settings=plan.settings.with_values(later))
    return plan, SearchStudy(InMemoryStorage(), "search", plan.space, plan.search, plan.grace)


def test_the_gpus_of_all_trials_that_run_are_charged(tmp_path: Path) -> None:
    seconds = [0.0]
    ledger = Ledger(str(tmp_path), None, 0, clock=lambda: seconds[0])
    assert not Spending(ledger, lambda: 0, 2.0, None).check(3)
    seconds[0] = 10.0
    ledger.close()
    assert ledger.spent.gpu_seconds == 60


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
        ({"done": True, "error": NonFiniteError("the loss")}, False, "NonFiniteError: the loss"),
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


def small_search(folder: Path, data: Path) -> tuple[Plan, SearchStudy]:
    """Return a search of two trials of one measurement, on a packed set, with its study on the disk."""
    pixels = np.random.default_rng(0).integers(0, 256, (128, 16 * 16), dtype=np.uint8)
    rows = Rows(pixels, None)
    write_set(str(data), iter([rows]), group_rows=64, height=16, width=16, channels=1, classes=None)
    settings = [f"storage={folder}", "name=search", f"data.path={data}", "search.trials=2"]
    sizes = ["model.width=4", "model.max_width=8", "model.latent_dim=4", "train.batch_size=32"]
    length = ["eval.samples=64", "train.kimg=0.064", "eval.every_kimg=0.064", "search.scheduler=none"]
    plan = make_plan("search-digits", [*settings, *sizes, *length])
    return plan, reopened(plan)


def reopened(plan: Plan) -> SearchStudy:
    return SearchStudy(study_storage(plan.uri, None), "search", plan.space, plan.search, plan.grace)


def run_trials(source: TrialSource) -> int:
    """Run trials one after another as Tune and its actors do; return how many began."""
    searcher, scheduler = _Searcher(source), _Scheduler(source)
    for begun in range(10):
        name = f"trial{begun}"
        actor_config = searcher.suggest(name)
        if actor_config == FINISHED:
            return begun
        assert actor_config is not None
        run = _TrialRun(RunConfig.model_validate(actor_config["run"]), actor_config["metric"])
        result = pickle.loads(pickle.dumps(run.next_result()))
        while not result["done"]:
            scheduler.on_trial_result(None, SimpleNamespace(trial_id=name), result)  # type: ignore[arg-type]
            result = pickle.loads(pickle.dumps(run.next_result()))
        run.end()
        searcher.on_trial_complete(name, result)
    raise AssertionError("the search does not end")


@pytest.mark.parametrize("replicas", [False, True])
def test_missing_images_end_a_search_whose_trials_go_on_once_they_are_back(
    tmp_path: Path, replicas: bool
) -> None:
    plan, study = small_search(tmp_path / "runs", data := tmp_path / "data")
    data.rename(tmp_path / "elsewhere")
    if replicas:
        source: TrialSource = _Replicas([plan.replica(0, study.next().params, 1)] * 2, "fd_digits")  # type: ignore[union-attr]
    else:
        source = _StudyTrials(plan, study, "fd_digits", lambda: None)
    assert run_trials(source) == 1
    assert isinstance(source.error, DamagedDataError)
    assert str(data) in str(source.error)
    if replicas:
        return
    assert [trial.state for trial in study.trials()] == [TrialState.RUNNING]
    (tmp_path / "elsewhere").rename(data)
    study = reopened(plan)
    assert study.unfinished == 2
    source = _StudyTrials(plan, study, "fd_digits", lambda: None)
    begun = run_trials(source)
    assert source.error is None
    assert begun == 2
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE] * 2


def test_a_study_that_cannot_be_written_ends_a_search_which_goes_on_with_all_it_had(tmp_path: Path) -> None:
    plan, study = small_search(tmp_path / "runs", tmp_path / "data")
    shown: list[object] = []
    source = _StudyTrials(plan, study, "fd_digits", lambda: shown.append(study.trials()))
    searcher, scheduler = _Searcher(source), _Scheduler(source)
    assert searcher.suggest("first") != FINISHED
    first = SimpleNamespace(trial_id="first")
    journal = tmp_path / "runs/search/study.journal"
    whole = journal.read_bytes()
    with largest_file(len(whole) + 20):
        result = {"images": 64, "value": 2.0, "done": False}
        assert scheduler.on_trial_result(None, first, result) == TrialScheduler.STOP  # type: ignore[arg-type]
        searcher.on_trial_complete("first", {"done": True})
        assert searcher.suggest("second") == FINISHED
    assert isinstance(source.error, StorageError)
    assert re.search(
        r"study\.journal, the search's study, cannot be written \(File too large\)", str(source.error)
    )
    assert journal.read_bytes() == whole
    study = reopened(plan)
    assert [trial.state for trial in study.trials()] == [TrialState.RUNNING]
    assert run_trials(_StudyTrials(plan, study, "fd_digits", lambda: None)) == 2
    assert [trial.state for trial in study.trials()] == [TrialState.COMPLETE] * 2


def test_a_database_that_fails_ends_a_search_without_its_password(tmp_path: Path) -> None:
    plan, _ = started(tmp_path, 2)
    canary = f"password-{os.urandom(8).hex()}"
    database = tmp_path / f"{canary}.db"
    study = SearchStudy(
        study_storage(plan.uri, f"sqlite:///{database}"), "search", plan.space, plan.search, plan.grace
    )
    source = _StudyTrials(plan, study, "fd_digits", lambda: None)
    assert _Searcher(source).suggest("first") != FINISHED
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("DROP TABLE trial_intermediate_values")
        connection.commit()
    first = SimpleNamespace(trial_id="first")
    result = {"images": 64, "value": 2.0, "done": False}
    assert _Scheduler(source).on_trial_result(None, first, result) == TrialScheduler.STOP  # type: ignore[arg-type]
    assert isinstance(source.error, StorageError)
    assert str(source.error).startswith(
        "the database of the search's study fails (no such table: trial_inter"
    )
    assert canary not in str(source.error)


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
