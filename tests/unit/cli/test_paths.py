"""Where a user's files are, said so that workers find them, whose working directories are others."""

from __future__ import annotations

import os
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from gan_dist.cli import export, main, report
from gan_dist.cli.paths import absolute, command, load_run, read_run, require_png, shorten
from gan_dist.config import load_config
from gan_dist.config.fields import override
from gan_dist.config.machine import INCEPTION_VARIABLE
from gan_dist.core import storage
from gan_dist.core.errors import GanDistError, NonFiniteError, StorageError, WorkerError
from gan_dist.data.packing.sources.items import SourceOptions
from gan_dist.data.packing.sources.torchvision_sets import open_torchvision
from gan_dist.search.plan import plan_search
from tests.support.names import FOLDERS

RELATIVE = ["storage=runs", "data.path=shards", "data.disk_cache_dir=kept", "eval.extractor=inception"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.delenv(INCEPTION_VARIABLE, raising=False)
    return tmp_path


def test_relative_paths_mean_the_same_in_workers_and_in_trials(here: Path) -> None:
    given = [*RELATIVE, "eval.inception_weights=weights.pth"]
    config = load_run("digits", given)
    assert config.storage.path == f"{here}/runs"
    assert config.data.path == f"{here}/shards"
    assert config.data.disk_cache_dir == f"{here}/kept"
    assert config.eval.inception_weights == f"{here}/weights.pth"
    trial = plan_search(read_run("search-digits", given)).trial(3, {"optim.g.lr": 1e-4})
    assert (trial.data.path, trial.data.disk_cache_dir) == (f"{here}/shards", f"{here}/kept")
    assert trial.eval.inception_weights == f"{here}/weights.pth"
    assert trial.run_uri == f"{here}/runs/search-digits/trials/00003"


def test_what_is_everywhere_the_same_or_each_nodes_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["storage=s3://bucket/runs", "data.path=builtin://digits", "eval.extractor=inception"]
    config = load_config("digits", given)
    for weights in ("/nodes/weights.pth", "~/weights.pth", "s3://bucket/weights.pth"):
        monkeypatch.setenv(INCEPTION_VARIABLE, weights)
        assert load_run("digits", given) == config
    assert config.data.disk_cache_dir.startswith("~")


def test_a_variable_that_says_a_relative_path_says_it_for_this_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(INCEPTION_VARIABLE, "weights.pth")
    config = load_run("digits", RELATIVE)
    assert config.eval.inception_weights == f"{here}/weights.pth"
    other = load_run("digits", [*RELATIVE, "eval.extractor=random"])
    assert other.eval.inception_weights is None


@pytest.mark.parametrize("name", FOLDERS)
def test_runs_and_searches_work_in_a_folder_of_any_name(
    here: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = here / name
    folder.mkdir()
    monkeypatch.chdir(folder)
    given = ["data.path=shards", "data.disk_cache_dir=kept", "eval.inception_weights=weights.pth"]
    config = load_run("digits", given)
    trial = plan_search(read_run("search-digits", given)).trial(0, {"optim.g.lr": 1e-4})
    for one in (config, trial):
        assert one.data.path == f"{folder}/shards"
        assert one.data.disk_cache_dir == f"{folder}/kept"
        assert one.eval.inception_weights == f"{folder}/weights.pth"
    assert trial.run_uri == f"{folder}/runs/search-digits/trials/00000"
    assert config.storage.path == f"{folder}/runs"


@pytest.mark.parametrize("name", FOLDERS)
def test_a_path_in_a_command_is_that_path_again(here: Path, name: str) -> None:
    for folder in (here / name, here.parent / name):
        shown = shorten(str(folder))
        assert absolute(shown) == str(folder)
        assert not shown.startswith("-")
        config = load_run("digits", [override("storage", shown), override("data.path", shown)])
        assert (config.storage.path, config.data.path) == (str(folder), str(folder))


@pytest.mark.parametrize("name", [*FOLDERS, "a{b,c}", "[ab]*?", "x&y;z|(w)<>!", '$HOME "$(id)" `id`'])
def test_a_command_through_ray_gives_a_job_the_same_arguments(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = ["my.yaml", override("storage", name), name, "search={space: {optim.g.lr: [1e-4, 1e-3]}}"]
    assert shlex.split(command("train", *arguments))[-4:] == arguments
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "")
    typed = shlex.split(command("train", *arguments))
    # What ray job submit does with it, and then the shell that it gives it to.
    job = subprocess.list2cmdline(typed[typed.index("--") + 1 :])
    printed = ["/bin/sh", "-c", "printf '%s\\n' " + job.removeprefix("python ")]
    done = subprocess.run(printed, capture_output=True, text=True, check=True)
    assert done.stdout.splitlines() == ["jobs/train.py", *arguments]


@pytest.mark.parametrize(
    "use",
    [
        absolute,
        storage.open_uri,
        lambda path: load_run("digits", [f"storage={path}"]),
        lambda path: load_run("digits", [f"data.path={path}"]),
        lambda path: open_torchvision("torchvision://CIFAR10", SourceOptions(root=path)),
        storage.require_writable,
    ],
)
def test_the_home_of_a_user_who_is_not_there_is_said(use: Callable[[str], object]) -> None:
    with pytest.raises(
        StorageError, match=r"there is no user nobody-here; .* is written \./~nobody-here/runs"
    ):
        use("~nobody-here/runs")


def test_a_tilde_is_the_home_and_after_a_dot_a_name(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/homes/me")
    assert absolute("~/runs") == "/homes/me/runs"
    assert absolute("./~nobody-here/runs") == f"{here}/~nobody-here/runs"
    assert storage.open_uri("./~nobody-here")[1] == f"{here}/~nobody-here"
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "")
    assert absolute("runs") == "/homes/me/gan-dist/runs"
    assert load_run("digits", ["storage=~/runs"]).storage.path == "/homes/me/runs"


def test_a_folder_whose_name_is_not_text_is_said(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    name = os.fsdecode(b"faces \xff")
    (here / name).mkdir()
    monkeypatch.chdir(here / name)
    with pytest.raises(GanDistError, match=r"faces .udcff/runs': this name is not UTF-8"):
        load_run("digits", [])


@pytest.mark.parametrize("folder", ["whose?", "a?b.txt", "s3:"])
def test_the_suffix_of_an_output_is_that_of_the_file_also_after_a_question_mark(folder: str) -> None:
    require_png(f"{folder}/grid.png")
    report.check(f"{folder}/page.html")
    export.check(f"{folder}/generator.pt2")
    require_png("s3://bucket/grid.png?region=x")
    for check, name in (
        (require_png, "grid.jpg?.html"),
        (report.check, "page.png"),
        (export.check, "a.pt2?"),
    ):
        with pytest.raises(GanDistError, match="end the name in"):
            check(f"{folder}/{name}")


def test_a_working_directory_that_was_removed_is_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    with pytest.raises(SystemExit, match="2"):
        main(["train", "digits", "--dry-run"])
    assert capsys.readouterr().err == (
        "gan-dist: the working directory does not exist any more; cd to one that does\n"
    )


@pytest.mark.parametrize(("kind", "code"), [(GanDistError, 2), (WorkerError, 1), (NonFiniteError, 3)])
def test_an_error_has_the_exit_code_of_its_kind(
    kind: type[GanDistError], code: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(_: object) -> None:
        raise kind("no")

    monkeypatch.setattr("gan_dist.cli.app", fails)
    with pytest.raises(SystemExit) as ended:
        main([])
    assert ended.value.code == code
