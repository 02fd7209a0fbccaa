"""Trackers: one run over all restarts, nested trials in their true states, and no run that waits for them."""

from __future__ import annotations

import json
import math
import os
import signal
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from optuna.storages import InMemoryStorage
from optuna.trial import TrialState
from PIL import Image

from benchmarks import simulated
from gan_dist.artifacts import trackers
from gan_dist.artifacts.records import RecordWriter
from gan_dist.artifacts.trackers import Trackers
from gan_dist.artifacts.trackers.checks import require_trackers
from gan_dist.core.errors import ConfigError, MissingPackageError
from gan_dist.search.plan import Plan, make_plan
from gan_dist.search.study import SearchStudy
from gan_dist.search.tracking import STATES, SearchTracking
from tests.support.heads import ROOT
from tests.support.mlflow import ABSENT, INSTALLED, mlflow_server
from tests.support.tracked import SECRET
from tests.support.wandb_files import records
from tests.support.web import serving

if TYPE_CHECKING:
    from mlflow import MlflowClient
    from mlflow.entities import Run

needs_server = pytest.mark.skipif(not INSTALLED.exists(), reason=ABSENT)


def client_of(url: str) -> MlflowClient:
    from mlflow import MlflowClient  # seconds, which every process of the suite would take

    return MlflowClient(url)


@pytest.fixture(scope="module")
def mlflow_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with mlflow_server(tmp_path_factory.mktemp("mlflow")) as url:
        yield url


@pytest.fixture
def mlflow(mlflow_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], list[Run]]:
    """Make trackers log to a server; returns the runs that it has of this test."""
    monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_url)
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", tmp_path.name)
    monkeypatch.setenv("MLFLOW_TRACKING_USERNAME", "someone")
    monkeypatch.setenv("MLFLOW_TRACKING_PASSWORD", SECRET)
    monkeypatch.setattr(trackers, "END_S", 60.0)

    def runs() -> list[Run]:
        client = client_of(mlflow_url)
        experiment = client.get_experiment_by_name(tmp_path.name)
        return [] if experiment is None else list(client.search_runs([experiment.experiment_id]))

    return runs


def killed_thrice(uri: Path, name: str) -> None:
    """Run a process that is killed at 5000, 8000 and 11000 images, and repeats the last 2000 each time."""
    (uri / "samples").mkdir(parents=True)
    Image.new("L", (8, 8)).save(uri / "samples" / "reals.png")
    for start, end in ((0, "killed"), (3000, "killed"), (6000, "killed"), (9000, "finished")):
        command = [sys.executable, "-m", "tests.support.tracked", str(uri), str(start), name, end]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, cwd=uri, check=False, timeout=120)
        assert done.returncode == (-signal.SIGKILL if end == "killed" else 0)
    kept = [path for path in uri.rglob("*") if path.is_file()]
    assert not [path for path in kept if SECRET.encode() in path.read_bytes()]


@pytest.mark.slow
@needs_server
def test_mlflow_has_one_run_after_three_kills_and_no_step_twice(
    tmp_path: Path, mlflow: Callable[[], list[Run]]
) -> None:
    killed_thrice(tmp_path / "run", "mlflow")
    (run,) = mlflow()
    assert run.info.status == "FINISHED"
    client = client_of(os.environ["MLFLOW_TRACKING_URI"])
    history = client.get_metric_history(run.info.run_id, "loss_d")
    assert [(one.step, one.value) for one in history] == [(n, n) for n in range(1000, 14001, 1000)]
    assert [one.step for one in client.get_metric_history(run.info.run_id, "fd_digits")] == [
        *range(2000, 14001, 2000)
    ]
    pictures = [file.path for file in client.list_artifacts(run.info.run_id, "images")]
    steps = sorted(int(path.split("+")[2]) for path in pictures if path.endswith(".png") and "fakes" in path)
    assert steps == [*range(2000, 14001, 2000)]
    assert len([path for path in pictures if path.endswith(".png") and "reals" in path]) == 1
    assert run.data.params == {"train.kimg": "14.0", "storage.path": "..."}
    assert run.data.tags["now.train.kimg"] == "23.0"


@pytest.mark.slow
def test_wandbs_offline_files_are_of_one_run_after_three_kills_and_have_no_step_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    killed_thrice(tmp_path / "run", "wandb")
    files = sorted(tmp_path.rglob("*.wandb"))
    assert 1 <= len(files) <= 4  # the process of a killed command may log for the next one
    every = [record for file in files for record in records(file)]
    assert len({record.run.run_id for record in every if record.HasField("run")}) == 1
    rows = [record.history for record in every if record.HasField("history")]
    assert [row.step.num for row in rows] == [*range(1000, 14001, 1000)]
    keys = [{item.nested_key[0] for item in row.item} for row in rows]
    assert all({"loss_d", "images"} <= of_row for of_row in keys)
    assert ["samples/fakes" in of_row for of_row in keys] == [False, True] * 7
    assert [record.exit.exit_code for record in every if record.HasField("exit")][-1] == 0


class Recording(SearchStudy):
    """A study whose trials leave records, as runs do."""

    def report(self, number: int, step: int, value: float) -> bool:
        folder = PLAN[0].trial(number, {}).run_uri
        writer = RecordWriter(folder, step - 1, tensorboard=False)
        writer.add({"images": step, "fd_digits": value, "loss_d": 0.5})
        writer.write()()
        return super().report(number, step, value)


PLAN: list[Plan] = []


@pytest.mark.slow
@needs_server
def test_a_search_of_30_trials_is_a_run_with_30_nested_ones_in_their_true_states(
    tmp_path: Path, mlflow: Callable[[], list[Run]]
) -> None:
    file = tmp_path / "search.yaml"
    file.write_text(json.dumps({"search": {"space": {"optim.g.lr": {"log": [1e-4, 1e-3]}}}}))
    said: list[str] = []
    PLAN[:] = [
        make_plan(
            str(file), ["name=search", f"storage={tmp_path}", "log.to=[mlflow]", "data.path=builtin://digits"]
        )
    ]
    storage, search = InMemoryStorage(), simulated.config(trials=30, scheduler="asha", seed=3)

    def go(until: Callable[[], bool]) -> Recording:
        study = Recording(storage, "s", simulated.space(), search, simulated.EVERY, simulated.LENGTH)
        with SearchTracking(PLAN[0], study, said.append) as tracking:

            def update(_: float) -> bool:
                tracking.update()
                return until()

            simulated.run(study, 3, 4, update)
            tracking.end(finished=not study.unfinished)
        return study

    calls = iter(range(1000))
    begun = len(go(lambda: next(calls) > 30).trials())
    states = Counter(run.data.tags["gan_dist.state"] for run in mlflow() if "/" in run.info.run_name)
    assert states["interrupted"] == 4
    assert states.total() == begun < 30
    study = go(lambda: False)
    every = mlflow()
    (parent,) = (run for run in every if "mlflow.parentRunId" not in run.data.tags)
    assert parent.info.status == "FINISHED"
    nested = {run.info.run_name: run for run in every if run is not parent}
    assert {run.data.tags["mlflow.parentRunId"] for run in nested.values()} == {parent.info.run_id}
    assert {name: run.data.tags["gan_dist.state"] for name, run in nested.items()} == {
        f"search/{trial.number:05d}": STATES[trial.state] for trial in study.trials()
    }
    assert {trial.state for trial in study.trials()} >= {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in study.trials():
        steps = [step for step, value in trial.intermediate_values.items() if math.isfinite(value)]
        assert nested[f"search/{trial.number:05d}"].data.metrics.get("images", 0) == max(steps, default=0)


@pytest.mark.slow
@needs_server
def test_a_tracker_that_hangs_lets_a_run_end_counts_what_it_lacks_and_gets_it_later(
    tmp_path: Path, mlflow: Callable[[], list[Run]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trackers, "END_S", 3.0)
    writer, said = RecordWriter(str(tmp_path), 0, tensorboard=False), list[str]()
    url = os.environ["MLFLOW_TRACKING_URI"]
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{silent.getsockname()[1]}")
        with Trackers(["mlflow"], str(tmp_path), "run", None, said.append) as following:
            following.update("", "running", uri=str(tmp_path))
            for images in range(1, 8):
                writer.add({"images": images, "loss_d": 1.0})
            writer.write()()
            connection, _ = silent.accept()
            following.update("", "interrupted")
        connection.close()
    assert len(said) == 1
    assert said[0].startswith("7 records did not reach MLflow at http://127.0.0.1:")
    monkeypatch.setattr(trackers, "END_S", 60.0)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", url)
    with Trackers(["mlflow"], str(tmp_path), "run", None, said.append) as following:
        following.update("", "running", uri=str(tmp_path))
        following.update("", "finished")
    (run,) = mlflow()
    history = client_of(url).get_metric_history(run.info.run_id, "loss_d")
    assert [one.step for one in history] == [*range(1, 8)]
    assert len(said) == 1


def answering(status: int, text: str) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            self.send_response(status)
            self.end_headers()
            self.wfile.write(text.encode())

        do_POST = do_GET  # noqa: N815

        def log_message(self, format: str, *args: Any) -> None: ...

    return Handler


@pytest.mark.parametrize(
    ("name", "status", "text", "refused", "warned"),
    [
        ("mlflow", 200, '{"experiments": []}', "", ""),
        ("mlflow", 401, "no", "refuses the credentials (401); set MLFLOW_TRACKING_TOKEN", ""),
        ("mlflow", 403, "no", "refuses the credentials (403)", ""),
        ("mlflow", 404, "no", "is another service (404 Not Found); correct MLFLOW_TRACKING_URI", ""),
        ("mlflow", 200, "<html>", "is another service", ""),
        ("mlflow", 503, "no", "", "fails (503): the run goes on"),
        ("wandb", 200, '{"data": {"viewer": {"id": "x"}}}', "", ""),
        ("wandb", 200, '{"data": {"viewer": null}}', "refuses the credentials", ""),
        ("wandb", 401, "no", "refuses the credentials (401); set WANDB_API_KEY", ""),
        ("wandb", 404, "no", "is another service", ""),
    ],
)
def test_credentials_and_addresses_are_judged_before_a_run(
    name: str, status: int, text: str, refused: str, warned: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", SECRET)
    said: list[str] = []
    with serving(answering(status, text)) as url:
        for variable in ("MLFLOW_TRACKING_URI", "WANDB_BASE_URL"):
            monkeypatch.setenv(variable, url.replace("//", f"//user:{SECRET}@"))
        error = ""
        try:
            require_trackers([name], said.append)
        except ConfigError as problem:
            error = str(problem)
    assert refused in error if refused else error == ""
    assert warned in said[0] if warned else said == []
    assert SECRET not in error + "".join(said)


def test_an_address_where_nobody_answers_is_a_warning_and_none_an_error(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for variable in ("WANDB_API_KEY", "WANDB_MODE", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("HOME", str(tmp_path))
    with pytest.raises(
        ConfigError, match=r"MLFLOW_TRACKING_URI is not set[\s\S]*there is no key for https://"
    ):
        require_trackers(["mlflow", "wandb"], pytest.fail)
    with socket.create_server(("127.0.0.1", 0)) as free:
        address = f"http://127.0.0.1:{free.getsockname()[1]}"
    said: list[str] = []
    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    require_trackers(["mlflow"], said.append)
    assert f"nobody answers at {address}" in said[0]
    monkeypatch.setattr("gan_dist.core.extras.find_spec", lambda _: None)
    with pytest.raises(MissingPackageError, match=r'log.to=wandb needs wandb, .*"gan-dist\[wandb\]"'):
        require_trackers(["tensorboard", "wandb"], pytest.fail)
