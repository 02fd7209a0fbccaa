"""What `gan-dist submit` refuses before anything is submitted, and that it sends what Ray would send."""

from __future__ import annotations

import json
import platform
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from zipfile import ZipFile

import pytest
import ray
from ray._private.runtime_env.packaging import create_package
from typer.testing import CliRunner

from gan_dist.cli import app
from gan_dist.cluster.jobs import client
from gan_dist.cluster.jobs.archive import collect_files
from gan_dist.core.errors import ClusterError, GanDistError
from tests.support.heads import ROOT
from tests.support.web import serving

NOWHERE = "http://127.0.0.1:1"


def refusal(*arguments: str) -> str:
    with pytest.raises(GanDistError) as caught:
        CliRunner().invoke(app, ["submit", *arguments], catch_exceptions=False)
    assert caught.value.exit_code == 2
    return str(caught.value)


@pytest.fixture(autouse=True)
def no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", NOWHERE)
    monkeypatch.delenv("RAY_ADDRESS", raising=False)


class Answering(BaseHTTPRequestHandler):
    """A dashboard of another Ray, as far as it is asked before a job is submitted."""

    pages: dict[str, object]

    def do_GET(self) -> None:
        body = json.dumps(self.pages.get(self.path)).encode()
        self.send_response(200 if self.path in self.pages else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


def answering(pages: dict[str, object]) -> AbstractContextManager[str]:
    return serving(type("Handler", (Answering,), {"pages": pages}))


@contextmanager
def saying(reply: bytes) -> Iterator[str]:
    """A program that gives each caller the same reply, whatever it was asked."""
    with socket.create_server(("127.0.0.1", 0)) as server, ThreadPoolExecutor(1) as pool:

        def answer() -> None:
            with server.accept()[0] as caller:
                caller.recv(1000)
                caller.sendall(reply)

        answered = pool.submit(answer)
        yield f"http://127.0.0.1:{server.getsockname()[1]}"
        answered.result()


def test_ray_would_send_the_same_files(tmp_path: Path) -> None:
    create_package(str(ROOT), tmp_path / "ray.zip", True, excludes=[".venv", ".git", "__pycache__"])
    with ZipFile(tmp_path / "ray.zip") as archive:
        theirs = {name for name in archive.namelist() if not name.endswith("/")}
    assert collect_files(ROOT).files.keys() == theirs


def test_an_unknown_verb_is_told_with_the_nearest() -> None:
    assert "the nearest is train" in refusal("trian", "digits")
    assert "there is no verb submit to submit" in refusal("submit", "train", "digits")
    assert "there is no verb bench to submit" in refusal("bench", "step")


def test_a_wrong_configuration_is_told_before_anything_is_submitted() -> None:
    assert "give a configuration: one of celeba64," in refusal("train")
    assert "the nearest is model.width" in refusal("train", "digits", "model.widht=3")
    assert "search.space" in refusal("tune", "search-digits", "search.space={optim.g.rl: [1, 2]}")
    assert "has no section search" in refusal("tune", "digits")
    result = CliRunner().invoke(app, ["submit", "evaluate", "runs/digits", "--sampels", "3"])
    assert result.exit_code == 2
    assert "No such option: --sampels" in result.output


@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("report runs/faces --out x.png", "--out x.png: what is written is an HTML page"),
        ("evaluate runs/faces --metrics fid,kdi", "kdi is not one of fid, kid"),
        ("evaluate runs/faces --out x.jpg", "--out x.jpg: pictures are written as PNG"),
        ("sample runs/faces --out x.jpg", "--out x.jpg: pictures are written as PNG"),
        ("sample runs/faces --n 60 --interpolate 8", "set --n 56 or 64"),
        ("sample runs/faces --single --out x.png", "--single writes into a folder"),
        ("export runs/faces --to x.pth", "--to x.pth has no known ending; end the name in .pt2"),
        ("best runs/faces kimg=3", "kimg=3: settings are for --retrain"),
        ("best runs/faces --retrain", "--retrain needs --to DIR"),
        ("pack photos", "DEST is missing"),
        ("pack photos shards --resolution 0", "--resolution must be from 1 to 16384"),
        ("pack photos shards --resolution 8 --max-bad few", "--max-bad must be a number"),
        ("pack --verify shards more", "--verify takes one folder"),
    ],
)
def test_what_a_verb_would_refuse_by_its_arguments_is_refused_here(command: str, told: str) -> None:
    assert told in refusal(*command.split())
    verb, *arguments = command.split()
    with pytest.raises(GanDistError, match=re.escape(told)):
        CliRunner().invoke(app, [verb, *arguments], catch_exceptions=False)


def test_right_arguments_are_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for command in (
        "report runs/faces --out s3://bucket/x.html",
        "evaluate runs/faces --metrics pr --out x.png",
        "sample runs/faces --single --out folder",
        "export runs/faces --to x.onnx",
        "best runs/faces --retrain --to best kimg=3",
        "pack photos shards --resolution 8 --max-bad 5%",
        "pack --verify shards",
        "doctor",
    ):
        done = CliRunner().invoke(app, ["submit", "--dry-run", *command.split()], catch_exceptions=False)
        assert f"# entrypoint: python -m gan_dist {command}" in done.stdout


def test_a_configuration_must_be_where_the_job_finds_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    for file in (tmp_path / "outside.yaml", tmp_path / "here/inside.yaml"):
        file.write_text("data: {path: builtin://digits}\n")
    (tmp_path / "here/.gitignore").write_text("*.yaml\n")
    assert "is not in the working directory" in refusal("train", "../outside.yaml")
    assert "inside.yml: there is no such file" in refusal("train", "inside.yml", "train.kimg=1")
    result = CliRunner().invoke(
        app, ["submit", "--dry-run", "--json", "train", f"{tmp_path}/here/inside.yaml"]
    )
    assert "inside.yaml" in result.stdout.splitlines()
    shown = json.loads(result.stdout.splitlines()[-1])
    assert shown["entrypoint"] == "python -m gan_dist train inside.yaml"
    assert shown["variables"] == {"RAY_JOB_STOP_SIGNAL": "SIGINT", "RAY_JOB_STOP_WAIT_TIME_S": "30"}
    # What a shared folder of the nodes holds is for the job to read.
    result = CliRunner().invoke(app, ["submit", "--dry-run", "train", f"{tmp_path}/outside.yaml"])
    assert f"entrypoint: python -m gan_dist train {tmp_path}/outside.yaml" in result.stdout
    assert "read where the job runs" in result.stderr


def test_secrets_are_refused_wherever_they_stand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    url = "postgresql://me:s3cr3t@db/gan"
    told = refusal("tune", "search-digits", f"search.optuna_storage={url}")
    assert "argument 2 of tune holds a URL with a password" in told
    assert "search.optuna_storage=env:NAME" in told
    Path("mine.yaml").write_text(
        "data: {path: builtin://digits}\nsearch: {space: {optim.g.lr: [1e-3, 1e-4]}, optuna_storage: '"
        + url
        + "'}\n"
    )
    assert "search.optuna_storage of mine.yaml holds a URL with a password" in refusal("tune", "mine.yaml")
    assert "--address holds" in refusal("--address", "http://me:s3cr3t@head:8265", "train", "digits")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "s3cr3t-t0ken")
    assert "the value of RAY_AUTH_TOKEN" in refusal("train", "digits", "name=s3cr3t-t0ken")


@pytest.mark.parametrize("address", [NOWHERE, "127.0.0.1:1", "ray://127.0.0.1:1"])
def test_an_address_where_no_cluster_listens(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", address)
    told = refusal("train", "digits")
    assert f"no cluster answers at {address} ([Errno 111] Connection refused); start one" in told


def test_what_listens_may_be_no_cluster(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "TIMEOUT_S", 0.5)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(ClusterError, match=r"no cluster answers at .*timed out"):
            client.require_listening(url)
    with answering({}) as url, pytest.raises(ClusterError, match="is no dashboard of Ray's"):
        client.require_listening(url)
    with saying(b"no HTTP\n") as url, pytest.raises(ClusterError, match="is no dashboard of Ray's"):
        client.require_listening(url)
    for address in ("head", "http://", "http://head:x", "http://[::1", "http://me:s3cr3t@head:x"):
        with pytest.raises(ClusterError, match="is no address of a cluster") as caught:
            client.require_listening(address)
        assert "s3cr3t" not in str(caught.value)


def test_a_cluster_of_other_versions(monkeypatch: pytest.MonkeyPatch) -> None:
    here, python = ray.__version__, platform.python_version()
    version = {"version": "4", "ray_version": "2.41.0", "ray_commit": "", "session_name": ""}
    for told, said in (
        ({"rayVersion": "2.41.0", "pythonVersion": python}, f"Ray is 2.41.0 there and {here} here"),
        ({"rayVersion": here, "pythonVersion": "3.9.1"}, "Python is 3.9 there and 3."),
    ):
        pages = {"/api/version": version, "/api/v0/cluster_metadata": {"data": told}}
        with answering(pages) as url:
            monkeypatch.setenv("RAY_API_SERVER_ADDRESS", url)
            assert said in refusal("train", "digits")
    client.require_same_versions("it", {"rayVersion": here, "pythonVersion": python})


def test_resources_are_json() -> None:
    huge = f'{{"driver": 1{"0" * 400}}}'
    for wrong in ("driver", "[1]", '{"driver": "one"}', '{"driver": NaN}', '{"driver": -1}', huge):
        assert "is no JSON like" in refusal("--entrypoint-resources", wrong, "train", "digits")
