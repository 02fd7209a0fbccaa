"""Where a user's files are, said so that workers find them, whose working directories are others."""

from __future__ import annotations

from pathlib import Path

import pytest

from gan_dist.cli.paths import load_run, path_overrides
from gan_dist.config import load_config
from gan_dist.evaluation.extractors.inception import VARIABLE

RELATIVE = ["storage=runs", "data.path=shards", "data.disk_cache_dir=kept", "eval.extractor=inception"]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    monkeypatch.delenv(VARIABLE, raising=False)
    return tmp_path


def test_relative_paths_mean_the_same_in_workers_and_in_trials(here: Path) -> None:
    given = [*RELATIVE, "eval.inception_weights=weights.pth"]
    config = load_run("digits", given)
    assert config.storage.path == f"{here}/runs"
    assert config.data.path == f"{here}/shards"
    assert config.data.disk_cache_dir == f"{here}/kept"
    assert config.eval.inception_weights == f"{here}/weights.pth"
    assert load_config("digits", [*given, *path_overrides("digits", given)]) == config


def test_what_is_everywhere_the_same_or_each_nodes_own_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    given = ["storage=s3://bucket/runs", "data.path=builtin://digits", "eval.extractor=inception"]
    config = load_config("digits", given)
    for weights in ("/nodes/weights.pth", "~/weights.pth", "s3://bucket/weights.pth"):
        monkeypatch.setenv(VARIABLE, weights)
        assert load_run("digits", given) == config
    assert config.data.disk_cache_dir.startswith("~")


def test_a_variable_that_says_a_relative_path_says_it_for_this_folder(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "weights.pth")
    config = load_run("digits", RELATIVE)
    assert config.eval.inception_weights == f"{here}/weights.pth"
    other = load_run("digits", [*RELATIVE, "eval.extractor=random"])
    assert other.eval.inception_weights is None
