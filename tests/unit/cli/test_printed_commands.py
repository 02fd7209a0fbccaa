"""Every command that a verb prints works as it is printed, in a folder of any name."""

from __future__ import annotations

import shlex
import shutil
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gan_dist.artifacts.best import find_best
from gan_dist.artifacts.model_card import model_card
from gan_dist.cli import app, pack
from gan_dist.cli import train as train_verb
from gan_dist.cli.paths import absolute, load_run, read_run
from gan_dist.cli.search_summary import Outcome, print_result
from gan_dist.config.fields import override
from gan_dist.core.errors import CheckpointError
from gan_dist.core.image_size import ImageSize
from gan_dist.models import release
from gan_dist.report.run import _commands
from gan_dist.search.budget import Ledger, Reached
from gan_dist.search.outlook import Outlook
from gan_dist.search.plan import plan_search
from gan_dist.search.start import begin
from gan_dist.search.study import SearchStudy
from gan_dist.search.study_storage import study_storage
from gan_dist.training.progress import RunResult
from tests.support.names import FOLDERS
from tests.support.searches import write_search

every_name = pytest.mark.parametrize("name", FOLDERS)


@pytest.fixture(autouse=True)
def called_as_gan_dist(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.setattr(sys, "argv", ["jobs/verb.py"])


def parse(line: str) -> tuple[str, dict[str, object]]:
    """Return the verb of a printed command and its arguments as the verb gets them."""
    words = shlex.split(line)
    if words[0] == "python":
        verb, arguments = Path(words[1]).stem, words[2:]
    else:
        assert words[0] == "gan-dist"
        verb, arguments = words[1], words[2:]
    commands = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    return verb, commands[verb].make_context(verb, arguments).params


def printed(text: str) -> list[tuple[str, dict[str, object]]]:
    """Return all commands in a verb's output: after two spaces, or after such a line's label."""
    found = []
    for line in text.splitlines():
        command = line.partition("python jobs/")[2]
        if line.startswith("  ") and command:
            found.append(parse(f"python jobs/{command}"))
    return found


@every_name
def test_those_of_best(name: str, run_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / name
    shutil.copytree(run_uri, folder / name)
    monkeypatch.chdir(folder)
    for to in (None, f"./{name}-release"):
        arguments = ["best", f"./{name}", *(["--to", to] if to else [])]
        result = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert result.exit_code == 0
        commands = printed(result.stdout)
        assert [verb for verb, _ in commands] == ["sample", "evaluate", "train" if to else "best"]
        for _, parsed in commands[:2]:
            release.load(absolute(str(parsed["source"])))
    config = load_run(str(commands[2][1]["config"]), commands[2][1]["overrides"])  # type: ignore[arg-type]
    assert config.storage.path == str(folder)
    assert config.run_uri.endswith("-best")
    # Those in the model card are typed where its folder is.
    card = model_card(find_best(str(folder / name)), name)
    (train,) = [line for line in card.splitlines() if line.startswith("gan-dist train")]
    assert absolute(str(parse(train)[1]["config"])) == str(folder / name / "config.yaml")


@every_name
def test_those_of_train(
    name: str,
    run_uri: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    run = shutil.copytree(run_uri, str(tmp_path / name / "run"))
    monkeypatch.chdir(tmp_path)
    result = RunResult(100, finished=True, images_per_second=1.0, value=1.0)
    train_verb._print_result("run", result, train_verb._record(run, result), ["tensorboard"])
    shown = capsys.readouterr().out
    ((verb, parsed),) = printed(shown)
    assert (verb, absolute(str(parsed["source"]))) == ("report", run)
    board = shlex.split(shown.partition("or: ")[2].splitlines()[0])
    assert board[:2] == ["tensorboard", "--logdir"]
    assert absolute(board[2]) == f"{run}/tensorboard"


@every_name
def test_those_of_tune(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / name
    folder.mkdir()
    monkeypatch.chdir(tmp_path)
    given = ["search-digits", override("storage", str(folder))]
    plan = plan_search(read_run(given[0], given[1:]))
    begin(plan, "fd_digits")
    database = study_storage(plan.uri, None)
    study = SearchStudy(database, "search-digits", plan.space, plan.search, plan.grace)
    outlook = Outlook(plan, study, Ledger(plan.uri, None, 0), 81_000, "fd_digits")
    reached = Reached("images", 90_000, "search.budget.images=90000 is reached")
    for outcome in (Outcome(study, outlook, False, reached), Outcome(study, outlook, True, None)):
        print_result(plan, outcome, "fd_digits", given, as_json=False)
        shown = capsys.readouterr().out
        commands = dict(printed(shown))
        larger = "search.budget.images=180000" in commands["tune"]["overrides"]  # type: ignore[operator]
        assert larger == (outcome.reached is not None)
    assert list(commands) == ["report", "tune", "best"]
    assert absolute(str(commands["report"]["source"])) == plan.uri
    assert absolute(str(commands["best"]["source"])) == plan.uri
    again = plan_search(read_run("search-digits", commands["tune"]["overrides"]))  # type: ignore[arg-type]
    assert again.uri == plan.uri
    dashboard = shlex.split(shown.partition("study")[2].splitlines()[0])
    assert dashboard[0] == "optuna-dashboard"
    assert Path(absolute(dashboard[1])).samefile(f"{plan.uri}/study.journal")


@every_name
def test_those_of_pack_and_of_reports(
    name: str, run_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = pack._train_arguments(str(tmp_path / name), ImageSize(100, 100))
    config = load_run(arguments[0], arguments[1:])
    assert config.data.path == str(tmp_path / name)
    assert config.data.resolution == 64
    (*_, oblong) = pack._train_arguments(str(tmp_path / name), ImageSize(480, 640))
    assert oblong == "data.resolution=512x384"
    assert len(pack._train_arguments("x", ImageSize(384, 512))) == 3
    run = shutil.copytree(run_uri, str(tmp_path / name / "run"))
    shutil.copy(f"{run}/best_000000000000/config.yaml", run)
    for _, line in _commands(run, "other", 5.0, find_best(run)):
        verb, parsed = parse(line)
        if verb == "train":
            again = load_run(str(parsed["config"]), parsed["overrides"])  # type: ignore[arg-type]
            assert (again.run_uri, again.name) == (run, "run")
        elif verb == "best":
            assert parsed["source"] == run


@every_name
def test_those_of_errors(name: str, tmp_path: Path) -> None:
    search = str(tmp_path / name)
    write_search(search)
    with pytest.raises(CheckpointError, match="gan-dist best") as caught:
        release.load(search)
    line = str(caught.value).partition("release: ")[2]
    assert parse(line) == ("best", {**parse(line)[1], "source": search, "to": "DIR"})
