"""A search before and after its trials: its plan, its folder, what it shows, the best run again."""

from __future__ import annotations

import cProfile
import io
import json
import re
import shutil
from pathlib import Path

import pytest
from optuna.storages import InMemoryStorage
from typer.testing import CliRunner

from gan_dist.cli import app
from gan_dist.config import load_config
from gan_dist.core.errors import CheckpointError, ConfigError, GanDistError, ResumeError
from gan_dist.models.transfer import read_source
from gan_dist.search.display import SearchView
from gan_dist.search.plan import Plan, beginnings, make_plan, pinned
from gan_dist.search.replicas import record_replicas, replica_configs
from gan_dist.search.space.parse import parse
from gan_dist.search.start import begin, warm_start_points
from gan_dist.search.study import SearchStudy, images_trained
from gan_dist.search.study_storage import study_storage
from gan_dist.training.preflight import total_images
from tests.support.searches import record, write_run
from tests.support.sources import SMALL, checkpoint

SPACE = "search.space={optim.g.lr: {log: [1e-4, 1e-3]}, loss.name: [hinge, rpgan]}"
CONDITIONAL = (
    "search.space={loss.name: [hinge, wgan-gp], loss.gp: {log: [1, 30], when: {loss.name: wgan-gp}}}"
)


def plan_of(folder: Path, *overrides: str) -> Plan:
    return make_plan("search-digits", [f"storage={folder}", "name=search", SPACE, *overrides])


def open_study(plan: Plan) -> SearchStudy:
    return SearchStudy(InMemoryStorage(), "search", plan.space, plan.search, plan.grace)


def test_the_preset_is_a_search_whose_corners_all_load() -> None:
    plan = make_plan("search-digits", [])
    assert {"loss.name", "optim.g.lr", "optim.d.beta1", "loss.gp", "loss.r1"} <= set(plan.space.distributions)
    assert plan.grace == 3000


def test_a_trial_is_the_run_that_its_values_describe(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "train.batch_size=32")
    trial = plan.trial(7, {"optim.g.lr": 3e-4, "loss.name": "hinge"})
    places = [f"storage={tmp_path}/search/trials", "name='00007'", "train.batch_size=32", "search=null"]
    assert trial == load_config("search-digits", [*places, "optim.g.lr=3e-4", "loss.name=hinge"])
    again = plan.replica(7, {"optim.g.lr": 3e-4, "loss.name": "hinge"}, 2)
    assert (again.seed, again.run_uri) == (trial.seed + 2, f"{tmp_path}/search/replicates/00007-2")


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["search=null"], "has no section search"),
        (["search.space={optim.g.lrr: [1e-4, 1e-3]}"], "the nearest is optim.g.lr"),
        (["search.space={optim.g.lr: {log: [1e-3, 1e-4]}}"], "optim.g.lr"),
        (["search.space={train.batch_size: {int: [32, 64]}}", "scale.workers=2"], "33 / 2 = 16.5"),
        (["search.points=[{optim.g.lr: 1}]"], "optim.g.lr=1"),
        (
            ["train.kimg=20", "search.grace_kimg=20"],
            "trials end after train.kimg=20, so that search.scheduler=asha stops none",
        ),
        (["search.algorithm=grid"], "a grid needs choices or whole numbers"),
        (["search.algorithm=cmaes"], "cmaes varies numbers, and loss.name have choices"),
        (
            [CONDITIONAL, "search.algorithm=gp"],
            "gp needs the same keys in every trial; not so loss.gp; use search.algorithm=tpe",
        ),
        ([CONDITIONAL, "search.algorithm=qmc"], "qmc needs the same keys in every trial"),
        (
            ["search.space={train.batch_size: [50, 64]}", "search.scheduler=median"],
            "with train.batch_size=64 none is measured after exactly eval.every_kimg=3",
        ),
        (
            ["search.perturb_kimg=6"],
            "search.perturb_kimg=6.0 is for pbt, pb2; search.scheduler=asha ignores it",
        ),
        (["search.quantile=0.5"], "search.quantile=0.5 is for pbt, pb2"),
        (["search.synch=false"], "search.synch=false is for pbt, pb2"),
        (["search.scheduler=median", "search.reduction=2"], "search.reduction=2 is for asha, hyperband"),
        (["search.scheduler=none", "search.grace_kimg=9"], "search.grace_kimg=9.0 is for asha, hyperband"),
        (["optim.g.lr={0: 1e-3, 40: 1e-4}"], "optim.g.lr has values by kimg, and search.space gives each"),
        *((f"search.{key}=1e300".split(), "of at most") for key in ("trials", "retries", "replicates")),
        *(
            (f"{key}=1e300".split(), "of at most")
            for key in ("train.kimg", "eval.every_kimg", "log.every_kimg")
        ),
    ],
)
def test_what_cannot_be_searched_is_said_at_once(tmp_path: Path, overrides: list[str], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        plan_of(tmp_path, *overrides)
    assert message in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["search.budget.until=2020-01-01T00:00"],
            "search.budget.until=2020-01-01T00:00 has passed; it is 20",
        ),
        (["search.warm_start=nope"], "nope: there is no search with a study.journal"),
        (["search.optuna_storage=nope"], "search.optuna_storage is not the URL of a database"),
        (["search.optuna_storage=env:NOPE"], "names a variable that is not set"),
        (["search.optuna_storage=nope://host/base"], "is of a kind that is not known"),
        (["search.space={optim.g.lr: [1e-3, 1e-4]}"], "search belongs to another search: loss.name"),
        (["search.objectives={fd_digits: min, diversity: max}"], "search.objectives was {}, is now"),
    ],
)
def test_a_dry_run_finds_what_keeps_a_search_from_its_start(
    tmp_path: Path, overrides: list[str], message: str
) -> None:
    if "budget" not in overrides[0]:
        begin(plan_of(tmp_path), "fd_digits")
    before = sorted(tmp_path.rglob("*"))
    arguments = ["search-digits", f"storage={tmp_path}", "name=search", SPACE, *overrides, "--dry-run"]
    result = CliRunner().invoke(app, ["tune", *arguments])
    assert isinstance(result.exception, GanDistError)
    assert message in str(result.exception)
    assert sorted(tmp_path.rglob("*")) == before


def test_a_folder_belongs_to_one_search(tmp_path: Path) -> None:
    begin(plan_of(tmp_path), "fd_digits")
    begin(plan_of(tmp_path, "search.trials=100", "scale.cpus_per_worker=2"), "fd_digits")
    for overrides, metric, message in [
        (["search.space={optim.g.lr: {log: [1e-4, 1e-2]}}"], "fd_digits", "optim.g.lr: was"),
        (["model.width=8"], "fd_digits", "model.width was 32, is now 8"),
        (["train.kimg=5"], "fd_digits", "train.kimg was 81.0, is now 5.0"),
        ([], "fid", "the metric was fd_digits, is now fid"),
    ]:
        with pytest.raises(ResumeError, match=message):
            begin(plan_of(tmp_path, *overrides), metric)
    shutil.copytree(tmp_path / "search", tmp_path / "copy")
    with pytest.raises(ResumeError, match="name was search, is now copy"):
        begin(plan_of(tmp_path, "name=copy"), "fd_digits")
    write_run(str(tmp_path / "run"), [])
    (tmp_path / "run/config.yaml").write_text("name: run\ndata: {path: 'builtin://digits'}\n")
    with pytest.raises(ResumeError, match="is a run, not a search"):
        begin(plan_of(tmp_path, "name=run"), "fd_digits")


@pytest.mark.parametrize(
    "content", ["", "[]", '{"metric": "fd_digits"}', '{"space": {"a": 1}, "metric": "m"}']
)
def test_a_damaged_record_of_a_search_is_told(content: str, tmp_path: Path) -> None:
    plan = plan_of(tmp_path)
    begin(plan, "fd_digits")
    Path(plan.uri, "search.json").write_text(content)
    with pytest.raises(
        ResumeError, match=r"search\.json is damaged \(.*; restore it, or give the search another"
    ):
        begin(plan, "fd_digits")


def test_searches_of_one_name_do_not_share_a_study_in_a_database(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"

    def opened(folder: str) -> SearchStudy:
        plan = plan_of(tmp_path / folder)
        owner = begin(plan, "fd_digits")
        database = study_storage(plan.uri, url)
        return SearchStudy(database, "search", plan.space, plan.search, plan.grace, owner=owner)

    assert opened("one").next() is not None
    assert len(opened("one").trials()) == 1
    with pytest.raises(ResumeError, match=f"another search, begun in {tmp_path}/one/search; this one is in"):
        opened("two")
    # The search is its folder, wherever that is moved to.
    (tmp_path / "one").rename(tmp_path / "moved")
    assert len(opened("moved").trials()) == 1


def test_what_is_shown_in_a_log_is_a_line_for_each_trial_that_ends(tmp_path: Path) -> None:
    study = open_study(plan_of(tmp_path, "search.trials=3"))
    stream = io.StringIO()
    with SearchView(study, 3, 1000, "fd_digits", stream) as view:
        for value in (5.0, 4.0, 9.0):
            trial = study.next()
            assert trial is not None
            study.report(trial.number, 500, value)
            view.update()
            if value == 9.0:
                study.fail(trial.number, "NonFiniteError: the loss")
            elif value == 4.0:
                study.prune(trial.number)
            else:
                study.complete(trial.number)
            view.update()
    lines = stream.getvalue().splitlines()
    assert len(lines) == 3
    assert lines[0].startswith("trial 0 complete at 0.5 kimg, best 5.000")
    assert "1/3 trials  best fd_digits 5.000 (trial 0)" in lines[0]
    assert "1 stopped early, 0 failed  1 kimg trained, 0 saved" in lines[1]
    assert "trial 2 failed" in lines[2]
    assert "(NonFiniteError: the loss)" in lines[2]
    assert [images_trained(trial) for trial in study.trials()] == [500, 500, 500]


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_is_told_how_things_stand_when_no_trial_ends_for_long(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    study = open_study(plan_of(tmp_path, "search.trials=3"))
    stream, now = io.StringIO(), 1000.0
    monkeypatch.setattr("time.monotonic", lambda: now)
    trial = study.next()
    assert trial is not None
    with SearchView(study, 3, 100_000, "fd_digits", stream) as view:
        for minute in range(60):
            now = 1000.0 + 60 * minute
            study.report(trial.number, 1000 * (minute + 1), 9.0)
            view.update()
    lines = stream.getvalue().splitlines()
    # After 1, 3, 7, 15 and 31 minutes.
    assert len(lines) == 5
    assert lines[0].startswith("0/3 trials  best fd_digits 9.000 (trial 0)  1 running")
    assert "32 kimg trained" in lines[-1]


def test_what_a_view_costs_does_not_grow_with_the_trials_that_have_ended(tmp_path: Path) -> None:
    study = open_study(
        plan_of(tmp_path, "search.trials=400", "search.scheduler=none", "search.algorithm=random")
    )
    looked_at: list[int] = []
    with SearchView(study, 400, 1000, "fd_digits", io.StringIO()) as view:
        for number in range(400):
            trial = study.next()
            assert trial is not None
            study.report(trial.number, 500, 1000.0 - number)
            study.complete(trial.number)
            before = len(study.ended())
            calls = cost(view)
            assert before == number + 1
            looked_at.append(calls)
    assert looked_at[-1] <= 1.1 * looked_at[10]


def cost(view: SearchView) -> int:
    """Return how many functions an update calls."""
    profile = cProfile.Profile()
    profile.runcall(view.update)
    return sum(entry.callcount for entry in profile.getstats())


@pytest.mark.parametrize("stream", [io.StringIO, Terminal])
def test_a_trial_that_fails_is_shown_with_the_reason_and_names_as_they_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: type[io.StringIO]
) -> None:
    monkeypatch.setenv("COLUMNS", "400")
    monkeypatch.setenv("TERM", "xterm")
    extractors = "{data.augment: [none, ada]}"
    study = open_study(plan_of(tmp_path, "search.trials=2", f"search.space={extractors}"))
    shown = stream()
    with SearchView(study, 2, 1000, "fd_[digits]", shown) as view:
        for reason in ("no file runs/exp [raw]:cat:/x", "[/] of runs"):
            trial = study.next()
            assert trial is not None
            view.update()
            study.report(trial.number, 500, 3.0)
            study.fail(trial.number, reason)
            view.update()
            assert f"trial {trial.number} failed at 0.5 kimg, best 3.000" in shown.getvalue()
            assert f"({reason})" in shown.getvalue()
    text = shown.getvalue()
    assert "2/2 trials  best fd_[digits] 3.000" in text
    assert "0 running, 0 stopped early, 2 failed" in text


def test_a_search_goes_by_what_it_read_at_its_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = tmp_path / "mine.yaml"
    written = (
        "data: {path: 'builtin://digits'}\nmodel: {width: 16}\nloss: {name: hinge}\n"
        "search: {trials: 9, space: {loss.name: [wgan-gp, rpgan, hinge], optim.g.lr: {log: [1e-5, 1e-3]}}}\n"
    )
    file.write_text(written)
    overrides = ["optim.d.lr=3e-4", "train.kimg=70"]
    plan = make_plan("mine.yaml", overrides)
    points = [{"loss.name": loss, "optim.g.lr": 2e-5} for loss in ("wgan-gp", "rpgan", "hinge")]
    # As `gan-dist train` would have it, but that a trial has one CPU on any machine.
    places = [f"storage={plan.uri}/trials", "name='00004'", "search=null", "scale.cpus_per_worker=1"]
    places += ["scale.workers=1"]
    expected = [
        load_config("mine.yaml", [*overrides, *places, f"loss.name={point['loss.name']}", "optim.g.lr=2e-5"])
        for point in points
    ]
    for content in (written.replace("width: 16", "width: 32"), written[:60], "", None):
        file.unlink() if content is None else file.write_text(content)
        assert [plan.trial(4, point) for point in points] == expected
        assert [plan.replica(4, point, 1).seed for point in points] == [1, 1, 1]


@pytest.mark.parametrize("columns", [80, 110])
def test_what_is_shown_on_a_terminal_is_a_table_of_fifteen_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, columns: int
) -> None:
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    study = open_study(plan_of(tmp_path, "search.trials=40", "search.scheduler=none"))
    stream = Terminal()
    with SearchView(study, 40, 1000, "fd_digits", stream) as view:
        for number in range(30):
            trial = study.next()
            assert trial is not None
            study.report(trial.number, 500, 50.0 - number)
            study.complete(trial.number)
        assert study.next() is not None
        view.update()
        shown = stream.getvalue()
    lines = [line for line in shown.splitlines() if line.strip()]
    assert len(lines) <= 15
    assert lines[0].endswith("30/40 trials  best fd_digits 21.000 (trial 29)")
    assert lines[1].startswith("1 running, 0 stopped early, 0 failed")
    assert re.match(r"15 kimg trained, 0 saved  \S+ left, until \d\d:\d\d:\d\d$", lines[2])
    rows = [re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", line).split()[:4] for line in lines]
    assert ["30", "running", "0", "-"] in rows
    assert ["29", "complete", "0.5", "21.000"] in rows


def test_the_best_that_came_to_their_end_are_run_again(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "search.trials=6", "search.replicates=2", "search.scheduler=none")
    study = open_study(plan)
    for value in (6.0, 1.0, 3.0, 2.0, 5.0, 4.0):
        trial = study.next()
        assert trial is not None
        study.report(trial.number, 500, value)
        (study.prune if value == 1.0 else study.complete)(trial.number)
    again = replica_configs(plan, study)
    assert [config.name for config in again] == [f"{n:05d}-{k}" for n in (3, 2, 5) for k in (1, 2)]
    values: list[float | None] = [9.0, 9.0, 3.5, 2.5, 4.0, None]
    for config, again_value in zip(again, values, strict=True):
        write_run(config.run_uri, [record(500, again_value)])
    found = record_replicas(plan, study, "fd_digits")
    assert [one.trial for one in found] == [2, 3, 5]
    assert found[0].values == (3.0, 3.5, 2.5)
    assert (found[0].mean, found[0].std) == (3.0, 0.5)
    named = json.loads((tmp_path / "search/replicates.json").read_text())
    assert [one["trial"] for one in named] == [2, 3]  # a run that measured nothing names no winner


def test_a_dry_run_tells_of_the_search_and_touches_nothing(tmp_path: Path) -> None:
    arguments = ["tune", "search-digits", "--dry-run", "--json", f"storage={tmp_path}", SPACE]
    result = CliRunner().invoke(app, arguments)
    told = json.loads(result.stdout.splitlines()[-1])
    assert told["keys"] == ["loss.name", "optim.g.lr"]
    assert told["scheduler"] == "asha, from 3 kimg on"
    assert list(tmp_path.iterdir()) == []


def test_a_finished_search_names_the_command_that_makes_it_longer(tmp_path: Path) -> None:
    settings = ["search.trials=2", "search.scheduler=none"]
    plan = plan_of(tmp_path, *settings)
    owner = begin(plan, "fd_digits")
    study = SearchStudy(
        study_storage(plan.uri, None),
        "search",
        plan.space,
        plan.search,
        plan.grace,
        total_images(plan.config.train, plan.config.optim),
        owner,
    )
    while (trial := study.next()) is not None:
        study.report(trial.number, 500, 10.0 - trial.number)
        study.complete(trial.number)
    arguments = ["search-digits", f"storage={tmp_path}", "name=search", SPACE, *settings]
    result = CliRunner().invoke(app, ["tune", *arguments])
    again = result.stdout.splitlines()[result.stdout.splitlines().index("continue it with") + 1].split()
    assert "search.trials=4" in again
    assert "search.trials=2" not in again


def test_a_search_that_reached_its_target_says_so_and_names_the_command_that_goes_on(tmp_path: Path) -> None:
    settings = ["search.trials=9", "search.target=9", "search.scheduler=none"]
    plan = plan_of(tmp_path, *settings)
    owner = begin(plan, "fd_digits")
    length = total_images(plan.config.train, plan.config.optim)
    database = study_storage(plan.uri, None)
    study = SearchStudy(database, "search", plan.space, plan.search, plan.grace, length, owner)
    stream = io.StringIO()
    with SearchView(study, 9, 1000, "fd_digits", stream) as view:
        while (trial := study.next()) is not None:
            study.report(trial.number, 500, 10.0 - trial.number)
            study.complete(trial.number)
            view.update()
    before, after = stream.getvalue().splitlines()
    assert "search.target" not in before
    assert "0 running, 0 stopped early, 0 failed; search.target reached" in after
    arguments = ["search-digits", f"storage={tmp_path}", "name=search", SPACE, *settings]
    result = CliRunner().invoke(app, ["tune", *arguments])
    lines = result.stdout.splitlines()
    assert "no more trials: search.target=9 is reached" in lines
    again = lines[lines.index("continue it with") + 1].split()
    assert again[-1] == "search.target=null"
    assert "search.target=9" not in again
    assert "search.trials=9" in again


def test_an_earlier_search_gives_points_to_begin_with(tmp_path: Path) -> None:
    plan = plan_of(tmp_path, "search.trials=8", "search.scheduler=none")
    begin(plan, "fd_digits")
    database = study_storage(plan.uri, None)
    study = SearchStudy(database, "search", plan.space, plan.search, plan.grace)
    while (trial := study.next()) is not None:
        study.report(trial.number, 500, 10.0 - trial.number)
        study.complete(trial.number)
    best_first = [trial.params for trial in reversed(study.trials())]
    assert warm_start_points(plan.uri, plan.space) == best_first[:5]
    narrow = parse({"loss.name": ["hinge", "lsgan"]}, {})
    assert warm_start_points(plan.uri, narrow) == [{"loss.name": "hinge"}]
    elsewhere = parse({"optim.d.lr": {"log": [1e-5, 1e-3]}}, {})
    with pytest.raises(ResumeError, match="none of its 8 measured trials lies within"):
        warm_start_points(plan.uri, elsewhere)
    with pytest.raises(ResumeError, match="there is no search with a study"):
        warm_start_points(str(tmp_path / "nothing"), plan.space)


def test_all_trials_begin_with_the_weights_that_the_search_began_with(tmp_path: Path) -> None:
    checkpoint(tmp_path / "source")
    space = "search.space={init.freeze_d: [0, 1]}"
    given = [f"init.from={tmp_path / 'source'}", space, *SMALL]
    plan = pinned(plan_of(tmp_path, *given))
    sha256 = plan.config.init.sha256
    assert sha256 is not None
    assert plan.trial(3, {"init.freeze_d": 1}).init.sha256 == sha256
    begin(plan, "fd_digits")
    checkpoint(tmp_path / "source", "seed=8")
    again = pinned(plan_of(tmp_path, *given))
    begin(again, "fd_digits")
    trial = again.trial(0, {"init.freeze_d": 0})
    with pytest.raises(CheckpointError, match="they have changed"):
        read_source(trial.init)


def test_a_search_may_vary_what_trials_begin_with(tmp_path: Path) -> None:
    checkpoint(tmp_path / "source")
    space = f"search.space={{init.from: [{tmp_path}/source, runs/other], init.freeze_d: {{int: [0, 1]}}}}"
    with pytest.raises(ConfigError, match=r"init\.from=runs/other is a relative path"):
        plan_of(tmp_path, "init.from=x", space)
    plan = pinned(plan_of(tmp_path, "init.from=x", space.replace("runs/other", "s3://b/other")))
    assert plan.config.init.sha256 is None
    sources = {init.source for init, _ in beginnings(plan)}
    assert sources == {f"{tmp_path}/source", "s3://b/other"}
