"""Where studies are kept: Optuna's own formats, safe from kills, and silent about passwords."""

from __future__ import annotations

import traceback
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from benchmarks import simulated
from gan_dist.core import storage
from gan_dist.core.errors import StorageError
from gan_dist.search.study import SearchStudy
from gan_dist.search.study_storage import study_storage


def search(folder: str, trials: int, url: str | None = None) -> list[optuna.trial.FrozenTrial]:
    """Open a study, search until there are that many trials, and return them."""
    database = study_storage(folder, url)
    config = simulated.config(trials=trials)
    study = SearchStudy(database, "s", simulated.space(), config, simulated.EVERY, simulated.LENGTH)
    simulated.run(study, 0, concurrent=2)
    return study.trials()


def test_the_journal_is_one_that_optuna_opens(tmp_path: Path) -> None:
    trials = search(str(tmp_path / "search"), 4)
    file = JournalFileBackend(str(tmp_path / "search/study.journal"))
    assert optuna.load_study(study_name="s", storage=JournalStorage(file)).get_trials() == trials


@pytest.mark.parametrize("stride", [19, pytest.param(1, marks=pytest.mark.soak)])
def test_a_journal_cut_anywhere_in_its_end_goes_on(tmp_path: Path, stride: int) -> None:
    search(str(tmp_path), 3)
    journal = tmp_path / "study.journal"
    whole = journal.read_bytes()
    lines = whole.splitlines(keepends=True)
    start = len(whole) - sum(map(len, lines[-3:]))
    ends = {start + size for line in lines[-3:] for size in (0, len(line) - 1)}
    for cut in sorted({*range(start, len(whole), stride), *ends}):
        journal.write_bytes(whole[:cut])
        trials = search(str(tmp_path), 3)
        assert len(trials) == 3
        assert all(trial.state.is_finished() for trial in trials)
        assert whole.startswith(journal.read_bytes()[:start])


@pytest.mark.parametrize("part_bytes", [2_000, pytest.param(256 * 1024, marks=pytest.mark.soak)])
def test_a_bucket_keeps_a_journal_in_parts(
    bucket: str, tmp_path: Path, part_bytes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gan_dist.search.study_storage.PART_BYTES", part_bytes)
    folder = f"{bucket}/search"
    first = search(folder, 3)
    trials = search(folder, 5)
    assert trials[:3] == first
    assert [trial.state for trial in trials].count(TrialState.RUNNING) == 0
    parts = [name for name in storage.list_names(folder) if name.startswith("study.journal")]
    assert (len(parts) > 1) == (part_bytes == 2_000)
    joined = b"".join(storage.read_bytes(storage.join(folder, name)) for name in parts)
    (tmp_path / "joined").write_bytes(joined)
    downloaded = JournalStorage(JournalFileBackend(str(tmp_path / "joined")))
    assert optuna.load_study(study_name="s", storage=downloaded).get_trials() == trials


def test_a_database_keeps_a_study(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    first = search(str(tmp_path), 2, url)
    assert [trial.params for trial in search(str(tmp_path), 4, url)[:2]] == [trial.params for trial in first]
    assert not (tmp_path / "study.journal").exists()


@pytest.mark.parametrize(
    ("url", "message"),
    [
        ("postgresql://me:s3cr3t@127.0.0.1:1/db", "needs the Python package psycopg"),
        ("nosuch://me:s3cr3t@host/db", "kind that is not known"),
        ("s3cr3t", "not the URL of a database"),
        ("sqlite:////nowhere/at/all/study.db", "cannot be used"),
    ],
)
def test_a_database_that_cannot_be_had_is_named_without_its_password(url: str, message: str) -> None:
    with pytest.raises(StorageError, match=message) as caught:
        study_storage("unused", url)
    assert "s3cr3t" not in "".join(traceback.format_exception(caught.value))


def test_a_variable_says_which_database(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDY_URL", f"sqlite:///{tmp_path}/study.db")
    first = search(str(tmp_path), 1, "env:STUDY_URL")
    assert search(str(tmp_path), 1, f"sqlite:///{tmp_path}/study.db") == first
    with pytest.raises(StorageError, match="env:STUDY names a variable that is not set"):
        study_storage("unused", "env:STUDY")


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="cannot be opened"):
        study_storage(str(tmp_path / "file"), None)
