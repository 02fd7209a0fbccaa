"""A search of version 0.1.0 is continued by this version."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from optuna.trial import TrialState

from gan_dist.search.plan import make_plan
from gan_dist.search.start import begin, warm_start_points
from gan_dist.search.study import SearchStudy, images_trained
from gan_dist.search.study_storage import study_storage
from gan_dist.training.preflight import total_images

EARLIER = Path(__file__).parents[2] / "data" / "version_0_1" / "search"
SPACE = (
    "search.space={loss.name: [nonsaturating, hinge, wgan-gp], optim.g.lr: {log: [1e-4, 1e-3]},"
    " loss.gp: {log: [1, 30], when: {loss.name: wgan-gp}}}"
)


@pytest.mark.parametrize("scheduler", ["asha", "hyperband", "median"])
def test_its_search_goes_on_with_the_trial_that_was_running(tmp_path: Path, scheduler: str) -> None:
    folder = shutil.copytree(EARLIER, tmp_path / "search")
    settings = [f"storage={tmp_path}", SPACE, "search.trials=8", f"search.scheduler={scheduler}"]
    plan = make_plan(str(folder / "config.yaml"), settings)
    owner = begin(plan, "fd_digits")
    database, length = study_storage(plan.uri, None), total_images(plan.config.train, plan.config.optim)
    study = SearchStudy(database, "search", plan.space, plan.search, plan.grace, length, owner)
    earlier = study.trials()
    complete, pruned = TrialState.COMPLETE, TrialState.PRUNED
    assert [trial.state for trial in earlier] == [complete, pruned, complete, pruned, TrialState.RUNNING]
    assert [images_trained(trial) for trial in earlier][:4] == [6400, 640, 6400, 640]
    assert study.unfinished == 4
    trials = []
    while (trial := study.next()) is not None:
        trials.append(trial)
        for images in range(320, length + 1, 320):
            if study.report(trial.number, images, 2000.0 + trial.number):
                study.prune(trial.number)
                break
        else:
            study.complete(trial.number)
    assert [trial.number for trial in trials] == [4, 5, 6, 7]
    assert trials[0].params == earlier[4].params
    assert study.unfinished == 0
    assert study.trials()[:4] == earlier[:4]
    assert len(warm_start_points(plan.uri, plan.space)) == 5
