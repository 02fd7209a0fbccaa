"""Searches on a real local Ray: every trial accounted for, whatever becomes of it."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import ray
import torch
from optuna.trial import FrozenTrial, TrialState
from ray._private.state import actors
from ray.util import placement_group_table

from gan_dist.artifacts.best import find_best
from gan_dist.artifacts.records import read_records
from gan_dist.cluster.connect import find_machine
from gan_dist.cluster.nodes.head_probe import node_resources, require_reachable
from gan_dist.cluster.nodes.resources import cluster_nodes, worker_capacity
from gan_dist.cluster.tune import driver
from gan_dist.cluster.tune.spending import Spending
from gan_dist.config import load_config
from gan_dist.config.search import BudgetConfig
from gan_dist.core.errors import CapacityError, ClusterError
from gan_dist.core.storage.hashed_folder import checkpoint_names
from gan_dist.search.budget import Ledger
from gan_dist.search.display import SearchView
from gan_dist.search.lineage import write_lineage
from gan_dist.search.plan import Plan, make_plan
from gan_dist.search.population import Member
from gan_dist.search.start import begin
from gan_dist.search.study import SearchStudy
from gan_dist.search.study_storage import study_storage
from gan_dist.training.checkpoint import images_of
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from tests.cluster.conftest import AddNode

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

SMALL = [
    *("model.width=4", "model.max_width=8", "model.latent_dim=4", "train.batch_size=32", "eval.samples=64"),
    *("train.kimg=0.512", "eval.every_kimg=0.064", "search.trials=6"),
]
SPACE = "search.space={optim.g.lr: {log: [1e-4, 1e-3]}, loss.name: [nonsaturating, rpgan]}"


def plan_of(folder: Path, *overrides: str, space: str = SPACE) -> Plan:
    places = [f"storage={folder}", "name=search", space]
    return make_plan("search-digits", [*SMALL, *places, *overrides])


def run(
    plan: Plan, metric: str = "fd_digits", on_change: Callable[[], object] = lambda: None
) -> list[FrozenTrial]:
    begin(plan, metric)
    database = study_storage(plan.uri, plan.search.optuna_storage)
    study = SearchStudy(database, "search", plan.space, plan.search, plan.grace)
    with SearchView(study, plan.search.trials, 512, metric) as view:

        def changed() -> None:
            on_change()
            view.update()

        driver.run(plan, study, metric, changed)
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
    # More trials go on; a budget stops the seventh after its first measurement, with a checkpoint.
    seven = plan_of(tmp_path, "search.trials=7", "search.scheduler=none")
    study = SearchStudy(study_storage(plan.uri, None), "search", plan.space, seven.search, plan.grace)
    limit = study.images + 64
    ledger = Ledger(plan.uri, BudgetConfig(images=limit), study.images)
    spending = Spending(ledger, lambda: study.images, 0.0, None)
    assert driver.run(seven, study, "fd_digits", lambda: None, spending)
    assert spending.reached is not None
    assert study.images == limit
    assert study.trials()[6].state == TrialState.RUNNING
    newest = checkpoint_names(f"{plan.uri}/trials/00006")[0]
    assert 64 <= images_of(newest) <= 128
    # The same again goes on with it.
    more = run(seven)
    assert more[6].state == TrialState.COMPLETE
    assert more[6].intermediate_values == curve(plan, 6)
    assert [trial.params for trial in more[:6]] == [trial.params for trial in trials]
    assert len(more) == 7


def test_the_winner_of_a_population_is_repeated_by_its_lineage(tmp_path: Path) -> None:
    settings = ["search.scheduler=pbt", "search.trials=3", "search.perturb_kimg=0.128", "train.kimg=0.384"]
    space = "search.space={optim.g.lr: {log: [1e-4, 1e-2]}, optim.d.lr: {log: [1e-4, 1e-2]}}"
    with pytest.raises(CapacityError, match=r"search\.trials=3 members .* room for 2 times: 3 > 2"):
        run(plan_of(tmp_path, *settings, space=space))
    plan = plan_of(tmp_path, *settings, "search.concurrent=2", space=space)
    trials = run(plan)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    assert all([*sorted(trial.intermediate_values)] == [64 * n for n in range(1, 7)] for trial in trials)
    assert any(branch.parent for trial in trials for branch in Member.of(trial).branches)
    uri, best = write_lineage(plan)
    config = load_config(uri)
    torch.set_num_threads(config.scale.threads)
    train(config, LocalContext(config.run_uri))
    repeated = find_best(config.run_uri)
    assert (repeated.value, repeated.images) == (best.value, best.images)
    assert repeated.contents["generator.safetensors"] == best.contents["generator.safetensors"]


@pytest.mark.parametrize("number", [signal.SIGTERM])
def test_a_search_that_is_told_to_end_leaves_its_trials_to_the_next_process(
    number: signal.Signals, tmp_path: Path
) -> None:
    own = ["model.name=tests.own_networks:Perceptrons", "search.algorithm=grid"]
    own.append("search.objectives={fd_digits: min, images_per_second: max, diversity: {above: 0}}")
    space = "search.space={model.settings.depth: [1, 2, 3]}"
    plan = plan_of(tmp_path, *own, "search.trials=3", "search.scheduler=none", space=space)
    begin(plan, "fd_digits")
    database = study_storage(plan.uri, plan.search.optuna_storage)
    study = SearchStudy(database, "search", plan.space, plan.search, plan.grace)
    told: list[int] = []

    def end() -> None:
        if not told and any(trial.intermediate_values for trial in study.trials()):
            told.append(number)
            os.kill(os.getpid(), number)

    assert not driver.run(plan, study, "fd_digits", end)
    assert told
    assert study.unfinished > 0
    assert TrialState.FAIL not in {trial.state for trial in study.trials()}
    trials = run(plan)
    assert [trial.state for trial in trials] == [TrialState.COMPLETE] * 3
    assert {trial.params["model.settings.depth"] for trial in trials} == {1, 2, 3}
    for trial in trials:
        assert trial.intermediate_values == curve(plan, trial.number)
        config = load_config(f"{plan.uri}/trials/{trial.number:05d}/config.yaml")
        assert config.model.settings == {"depth": trial.params["model.settings.depth"]}
        speeds = curve(plan, trial.number, "images_per_second")
        images = min((value, images) for images, value in trial.intermediate_values.items())[1]
        assert trial.values == [trial.intermediate_values[images], speeds[images]]
        assert trial.constraints["diversity"] < 0


def test_trials_that_share_a_gpu_fail_or_die_by_themselves_and_the_studys_url_is_in_no_file(
    tmp_path: Path, add_node: AddNode, capfd: pytest.CaptureFixture[str]
) -> None:
    """As many at once as the GPU has parts, on a node that claims one that it does not have."""
    add_node(num_cpus=4, num_gpus=1)
    # A cluster is asked by its address before it is joined, and by Ray afterwards.
    asked = node_resources(require_reachable(ray.get_runtime_context().gcs_address))
    assert sorted(asked) == sorted(find_machine().nodes) == [(2, 0), (4, 1)]
    ray_folder = Path(os.environ["RAY_TMPDIR"])
    canary = f"password-{os.urandom(8).hex()}"
    url = f"sqlite:///{tmp_path}/{canary}.db"
    rates = "search.points=[{optim.d.lr: 1e30}, {optim.d.lr: 2e-4}, {optim.d.lr: 3e-4}]"
    settings = ["search.trials=3", "search.scheduler=none", "eval.extractor=tests.extractors:Fatal"]
    settings += [rates, f"search.optuna_storage={url}", "scale.gpus_per_worker=0.5"]
    plan = plan_of(tmp_path, *settings, space="search.space={optim.d.lr: [2e-4, 3e-4, 1e30]}")
    assert worker_capacity(plan.config.scale, cluster_nodes()) == 2
    free: list[dict[str, float]] = []
    failed, *fine = run(plan, "fd_fatal", lambda: free.append(ray.available_resources()))

    assert failed.state == TrialState.FAIL
    assert failed.user_attrs["reason"].startswith("NonFiniteError: ")
    # The first process to measure a while has died, and its trial has gone on from its checkpoint.
    assert (ray_folder / "fatal-once").exists()
    for trial in fine:
        assert trial.state == TrialState.COMPLETE
        assert trial.intermediate_values == curve(plan, trial.number, "fd_fatal")
        assert sorted(trial.intermediate_values) == list(range(64, 513, 64))
    # Two of the three took all of the GPU, and two of the six CPUs.
    least = {key: min(one.get(key, 0.0) for one in free) for key in ("CPU", "GPU")}
    assert least == {"CPU": 4.0, "GPU": 0.0}

    database = tmp_path / f"{canary}.db"
    assert database.exists()
    written = [path for folder in (tmp_path, ray_folder) for path in folder.rglob("*") if path.is_file()]
    assert len(written) > 20
    assert [path for path in written if path != database and canary.encode() in path.read_bytes()] == []
    shown = capfd.readouterr()
    assert "trial 2 complete" in shown.err
    assert canary not in shown.out + shown.err


@pytest.mark.soak
def test_a_search_by_what_its_runs_do_not_measure_ends_with_the_first_of_them(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "search.concurrent=1", "train.kimg=0.064")
    with pytest.raises(ClusterError, match=r"trial 0 .* a measurement of fid; .* have diversity, fd_dig"):
        run(plan, metric="fid")
    (trial,) = SearchStudy(
        study_storage(plan.uri, None), "search", plan.space, plan.search, plan.grace
    ).trials()
    assert trial.state == TrialState.FAIL


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
