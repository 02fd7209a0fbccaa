"""A population of real runs in this process: killed at any moment, and its best repeated by one run."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from unittest.mock import patch

import pytest
from optuna.trial import TrialState

from gan_dist.artifacts.best import find_best, rank_runs
from gan_dist.artifacts.records import read_records
from gan_dist.cli.paths import load_run
from gan_dist.cluster.tune.population import PopulationTrials, require_places
from gan_dist.cluster.tune.source import WAIT
from gan_dist.config import RunConfig, load_config
from gan_dist.core import storage
from gan_dist.core.errors import CapacityError, ResumeError
from gan_dist.models.release import read_best
from gan_dist.search.lineage import write_lineage
from gan_dist.search.plan import Plan, make_plan
from gan_dist.search.population import Member
from gan_dist.search.start import begin
from gan_dist.search.study import SearchStudy
from gan_dist.search.study_storage import study_storage
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train

SMALL = [
    *("model.width=4", "model.max_width=8", "model.latent_dim=4", "train.batch_size=32", "eval.samples=64"),
    *("train.kimg=0.256", "eval.every_kimg=0.064", "search.trials=4", "search.scheduler=pbt"),
    *("search.algorithm=random", "loss.r1=0.3", "optim.d_steps=1"),
    "search.space={optim.g.lr: {log: [1e-4, 1e-1]}, loss.r1: {log: [0.1, 3]}}",
]


class KilledError(Exception):
    """The process ends here."""


def plan_of(folder: Path, *overrides: str) -> Plan:
    return make_plan("search-digits", [f"storage={folder}", "name=search", *SMALL, *overrides])


def search(plan: Plan) -> SearchStudy:
    """Run a search to its end in this process, or until something raises."""
    owner = begin(plan, "fd_digits")
    study = SearchStudy(
        study_storage(plan.uri, None), "search", plan.space, plan.search, plan.grace, plan.ends[-1], owner
    )
    source = PopulationTrials(plan, study, "fd_digits", lambda: None)
    for number in range(1000):
        name = str(number)
        run = source.next_run(name)
        assert run is not WAIT
        if not isinstance(run, dict):
            assert source.error is None
            return study
        config = RunConfig.model_validate(run["run"])
        train(config, LocalContext(config.run_uri))
        for record in read_records(config.run_uri):
            if "fd_digits" in record:
                source.on_result(name, {"images": record["images"], "value": record["fd_digits"]})
        source.on_end(name, {"done": True}, died=False)
    raise AssertionError("the search does not end")


@contextmanager
def killed_after(writes: int) -> Iterator[None]:
    """End the process before one of its writes of files, of which every one counts."""
    real, left = storage.write_bytes, [writes]

    def write(uri: str, content: bytes) -> None:
        left[0] -= 1
        if left[0] == 0:
            raise KilledError
        real(uri, content)

    with patch.object(storage, "write_bytes", write):
        yield


def weights(folder: str) -> str:
    return hashlib.sha256(storage.read_bytes(storage.join(folder, "generator.safetensors"))).hexdigest()


def _trained_alone(config: RunConfig, folder: Path) -> RunConfig:
    """Train a configuration from the start in a folder of its own."""
    place = config.storage.model_copy(update={"path": str(folder)})
    config = config.model_copy(update={"storage": place})
    train(config, LocalContext(config.run_uri))
    return config


def test_a_lineage_trained_from_the_start_is_the_winner_to_the_last_bit_also_after_ten_kills(
    tmp_path: Path,
) -> None:
    plan, places, kills = plan_of(tmp_path), random.Random(0), 0
    while True:
        try:
            with killed_after(places.randint(5, 60)):
                study = search(plan)
            break
        except KilledError:
            kills += 1
    assert kills >= 10
    trials = study.trials()
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 4
    assert all(sorted(trial.intermediate_values) == plan.ends for trial in trials)
    copied = [branch for trial in trials for branch in Member.of(trial).branches if branch.parent]
    assert copied
    uri, best = write_lineage(plan)
    assert best.value == min(trial.value or 0 for trial in trials)
    assert {one.trial for one in rank_runs(plan.uri).best} == {0, 1, 2, 3}
    repeated = _trained_alone(load_run(uri, []), tmp_path / "winner")
    assert repeated.train.kimg * 1000 == best.images
    assert weights(f"{repeated.run_uri}/{read_best(repeated.run_uri)['release']}") == weights(best.release)
    # So is the whole state of the last branch that was copied, whatever the winner is.
    last = max(copied, key=lambda one: one.images)
    uri = f"{plan.uri}/trials/{last.name}"
    repeated = _trained_alone(load_config(f"{uri}/config.yaml"), tmp_path / "last")
    assert repeated.schedules
    for file in ("average", "optimizer_g", "discriminator"):
        name = f"checkpoint_{plan.ends[-1]:012d}/{file}.safetensors"
        assert Path(repeated.run_uri, name).read_bytes() == Path(uri, name).read_bytes()
    # The same search makes the same decisions, and another one is refused.
    again = plan_of(tmp_path / "again")
    assert [one.params | one.user_attrs for one in search(again).trials()] == [
        one.params | one.user_attrs for one in trials
    ]
    assert find_best(again.uri).value == best.value
    for other in ("search.trials=5", "search.seed=1", "search.scheduler=asha", "search.synch=false"):
        with pytest.raises(ResumeError, match=other.partition("=")[0]):
            begin(plan_of(tmp_path, other), "fd_digits")


def test_members_in_lock_step_have_places_or_take_turns(tmp_path: Path) -> None:
    with pytest.raises(CapacityError, match="there is room for 3 times: 4 > 3"):
        require_places(plan_of(tmp_path), 3)
    for allowed in ("search.concurrent=2", "search.synch=false", "search.trials=3", "search.scheduler=asha"):
        require_places(plan_of(tmp_path, allowed), 3)
