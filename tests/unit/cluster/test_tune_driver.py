"""What a search on Ray Tune stores and shows of its trials, without Ray."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState

from gan_dist.cluster.tune.driver import _StudyTrials
from gan_dist.search.display import SearchView
from gan_dist.search.plan import Plan, make_plan
from gan_dist.search.study import SearchStudy

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
