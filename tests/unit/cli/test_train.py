"""The verbs `train` and `tune`: what they refuse before anything is started, and their exit codes."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gan_dist.cli import app
from gan_dist.core.errors import ClusterError, GanDistError
from gan_dist.models.transfer import read_source
from gan_dist.training.progress import RunResult
from tests.support.sources import SMALL, checkpoint, config


@pytest.mark.parametrize("optimised", ["2", *(pytest.param(o, marks=pytest.mark.soak) for o in ("", "1"))])
def test_a_batch_that_does_not_divide_is_refused_with_optimised_python_too(
    optimised: str, tmp_path: Path
) -> None:
    """Asserts are gone there: what is checked by one would be found by a worker, on the cluster."""
    settings = ["train.batch_size=64", "scale.workers=3", f"storage={tmp_path}/runs"]
    done = subprocess.run(
        [sys.executable, "-m", "gan_dist", "train", "digits", *settings],
        env={**os.environ, "PYTHONOPTIMIZE": optimised},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "must divide by scale.workers=3: 64 / 3 = 21.3333; use 63 or 66" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("finished", [True, False])
def test_a_run_that_was_stopped_has_an_exit_code_of_its_own(
    finished: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Only the cluster's part is left out."""
    ended = RunResult(64, finished=finished, images_per_second=None, value=None)
    monkeypatch.setattr("gan_dist.cluster.train.driver.run", lambda *_: ended)
    done = CliRunner().invoke(app, ["train", "digits", f"storage={tmp_path}", "scale.workers=1", "--json"])
    assert done.exit_code == (0 if finished else 130)
    assert json.loads(done.stdout.splitlines()[-1])["finished"] is finished
    assert f"digits {'finished' if finished else 'stopped'} at 0.064 kimg" in done.stdout


def test_a_search_that_was_stopped_has_an_exit_code_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("gan_dist.cluster.tune.driver.run", stopped)
    url = f"sqlite:///{tmp_path}/secret.db"
    command = ["tune", "search-digits", f"storage={tmp_path}", "scale.workers=1", "--json"]
    done = CliRunner().invoke(app, [*command, f"search.optuna_storage={url}"])
    assert done.exit_code == 130
    assert "secret" not in done.output
    assert "search-digits stopped with 0 trials" in done.stdout
    assert json.loads(done.stdout.splitlines()[-1])["trials"] == 0


def test_a_dry_run_says_what_is_taken_of_a_source_and_its_hash(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "source")
    command = ["train", "digits", "init.from=source", "init.freeze_d=1", "storage=runs", *SMALL]
    done = CliRunner().invoke(app, [*command, "--dry-run", "--json"])
    assert done.exit_code == 0, done.output
    summary = json.loads(done.stdout.splitlines()[-1])
    sha256 = read_source(config(tmp_path, f"init.from={tmp_path / 'source'}").init).sha256
    assert summary["init"] == f"{tmp_path / 'source'}, init.sha256={sha256}"
    assert f"\n  sha256: {sha256}\n" in done.stdout
    assert summary["init_generator"] == "all 13 tensors"
    assert summary["init_frozen"] == "1 of the discriminator's 2 stages"
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("verb", ["train", "tune"])
def test_a_source_that_does_not_fit_is_refused_before_anything_starts(
    verb: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    checkpoint(tmp_path / "source")
    command = [verb, "digits", "storage=runs", *SMALL, "init.freeze_d=1", "init.from=source"]
    if verb == "tune":
        command += [
            f"search={{space: {{init.from: ['{tmp_path}/source', '{tmp_path}/nothing']}}, trials: 2}}"
        ]
    else:
        command += ["model.name=r3gan", "model.width=8"]
    done = CliRunner().invoke(app, command)
    assert isinstance(done.exception, GanDistError)
    said = "model.name=dcgan" if verb == "train" else f"init.from: {tmp_path}/nothing is not a release"
    assert said in str(done.exception)
    assert not (tmp_path / "runs").exists()


def test_the_weights_are_copied_before_the_cluster_is_asked_for_workers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And not read again by the same command, with another source or none in its place."""
    monkeypatch.chdir(tmp_path)

    def no_cluster(*_: object) -> None:
        raise ClusterError("there is no cluster")

    monkeypatch.setattr("gan_dist.cluster.train.driver.connect_for", no_cluster)
    checkpoint(tmp_path / "source")
    command = ["train", "digits", "name=run", "init.from=source", "storage=runs", *SMALL]
    first = CliRunner().invoke(app, command)
    assert str(first.exception).startswith("there is no cluster")
    assert "init_generator: all 13 tensors" in first.output
    kept = {file.name: file.read_bytes() for file in (tmp_path / "runs/run/init").iterdir()}
    (tmp_path / "source").rename(tmp_path / "moved")
    again = CliRunner().invoke(app, command)
    assert str(again.exception).startswith("there is no cluster")
    assert {file.name: file.read_bytes() for file in (tmp_path / "runs/run/init").iterdir()} == kept
