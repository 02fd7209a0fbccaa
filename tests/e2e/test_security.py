"""A cluster with a token, and jobs on it that use secrets: who is let in, and where the secrets are found."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
import subprocess
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
import requests

from tests.support.heads import BIN, CHATTER, Head, gan_dist, routes

pytestmark = [pytest.mark.ray, pytest.mark.slow]
REFUSED = grpc.StatusCode.UNAUTHENTICATED


def listening(head: Head) -> set[tuple[str, int]]:
    """Return where the processes of a head listen."""
    starting = [one for one in psutil.Process().children() if f"--temp-dir={head.folder}" in one.cmdline()]
    found = set()
    for process in (one for each in starting for one in (each, *each.children(recursive=True))):
        for connection in process.net_connections("tcp"):
            if connection.status == psutil.CONN_LISTEN:
                host = connection.laddr.ip.removeprefix("::ffff:")
                found.add(("127.0.0.1" if host in ("0.0.0.0", "::") else host, connection.laddr.port))
    return found


def calls() -> list[tuple[str, str]]:
    """Return the path and the kind of every remote call of Ray's protocols."""
    from ray.core import generated

    found = []
    for name in (one.name for one in pkgutil.iter_modules(generated.__path__) if one.name.endswith("_pb2")):
        described = importlib.import_module(f"{generated.__name__}.{name}").DESCRIPTOR
        for service in described.services_by_name.values():
            for method in service.methods:
                many = (method.client_streaming, method.server_streaming)
                kind = "_".join("stream" if one else "unary" for one in many)
                found.append((f"/{service.full_name}/{method.name}", kind))
    return found


def answer_to(channel: grpc.Channel, path: str, kind: str, token: str | None) -> Any:
    metadata = [("authorization", f"Bearer {token}")] if token else []
    call = getattr(channel, kind)(path)
    try:
        answer = call(iter([b""]) if kind.startswith("stream") else b"", timeout=60, metadata=metadata)
        if kind.endswith("stream"):
            list(answer)
    except grpc.RpcError as error:
        return error.code()
    return grpc.StatusCode.OK


@pytest.mark.parametrize("token", [None, "wrong" * 8])
def test_nothing_is_done_for_one_without_the_token(head: Head, token: str | None) -> None:
    writing = routes(head, "POST", "PUT", "DELETE", "PATCH")
    assert {path for _, path in writing} >= {"/api/jobs/", "/report_events", "/api/job_agent/jobs/"}
    writing.append(("POST", "/get_or_create_runtime_env"))  # of an agent that logs no routes
    given: dict[str, Any] = {"headers": {"Authorization": f"Bearer {token}"} if token else {}, "timeout": 60}
    services, refusing = calls(), Counter[str]()
    for host, port in listening(head):
        url = f"http://{host}:{port}"
        try:
            answers = {requests.request(method, url + path, **given).status_code for method, path in writing}
        except requests.ConnectionError:  # it speaks gRPC
            with grpc.insecure_channel(f"{host}:{port}") as channel:
                said = {path: answer_to(channel, path, kind, token) for path, kind in services}
            assert set(said.values()) <= {REFUSED, grpc.StatusCode.UNIMPLEMENTED}, (port, said)
            refusing.update(path for path, code in said.items() if code == REFUSED)
        else:
            # The port of the metrics has no such routes.
            assert answers in ({401}, {403}, {404, 405}, {405}), (port, answers)
            refusing.update(str(code) for code in answers)
    assert refusing["403" if token else "401"] >= 3
    for service in (
        "RayletDriver/Init",
        "InternalKVGcsService/InternalKVPut",
        "NodeManagerService/DrainRaylet",
    ):
        assert refusing[f"/ray.rpc.{service}"], refusing


@pytest.mark.parametrize("has", ["another token", "no token"])
def test_a_user_without_the_token_is_told_what_is_wanted(head: Head, has: str, tmp_path: Path) -> None:
    token = {"RAY_AUTH_TOKEN": "wrong" * 8} if has == "another token" else {"RAY_AUTH_MODE": "disabled"}
    for place in (head.url, head.address):
        env = {**head.env, "RAY_API_SERVER_ADDRESS": place, **token}
        done = gan_dist("submit", "train", "digits", env=env, cwd=tmp_path)
        assert done.returncode == 2
        assert f"the cluster at {place} wants " in done.stderr
        assert "RAY_AUTH_TOKEN" in done.stderr
        assert "Traceback" not in done.stderr


def contents(head: Head) -> Iterator[tuple[str, bytes]]:
    """Yield everything that a cluster, its store and its API hold of the jobs so far, with where it is."""
    for folder in (head.folder, head.home):
        for file in folder.rglob("*"):
            if file.is_file() and not file.is_symlink():
                yield str(file), file.read_bytes()
    headers = {"Authorization": f"Bearer {head.canaries['RAY_AUTH_TOKEN']}"}
    for _, path in routes(head, "GET"):
        if "{" not in path:
            query = "?detail=1&view=summary"
            yield path, requests.get(head.url + path + query, headers=headers, timeout=60).content
    for job in requests.get(f"{head.url}/api/jobs/", headers=headers, timeout=60).json():
        for path in (f"/api/jobs/{job['submission_id']}", f"/api/jobs/{job['submission_id']}/logs"):
            yield path, requests.get(head.url + path, headers=headers, timeout=60).content
    told = requests.get(f"{head.url}/api/prometheus/sd", headers=headers, timeout=60).json()
    for target in (target for group in told for target in group["targets"]):
        with suppress(requests.ConnectionError):  # an autoscaler's is listed where there is none
            yield "metrics", requests.get(f"http://{target}/metrics", headers=headers, timeout=60).content
    store, _, bucket = head.env["AWS_ENDPOINT_URL"], *head.bucket.split("//")
    listing = requests.get(f"{store}/{bucket}?list-type=2", timeout=60).text
    for key in re.findall("<Key>(.*?)</Key>", listing):
        yield f"{head.bucket}/{key}", requests.get(f"{store}/{bucket}/{key}", timeout=60).content
    listed = subprocess.run([str(BIN / "ray"), "job", "list"], env=head.env, check=True, capture_output=True)
    yield "ray job list", listed.stdout + listed.stderr


def test_a_submitted_search_has_a_log_of_its_own_lines_and_secrets_are_found_nowhere(
    head: Head, tmp_path: Path
) -> None:
    name = "a-name-that-is-found"
    small = ["model.width=4", "model.max_width=8", "train.batch_size=32", "eval.samples=64"]
    small += ["train.kimg=0.384", "eval.every_kimg=0.192", "search.trials=2", "search.scheduler=none"]
    places = ["search.optuna_storage=env:STUDY_URL", f"storage={head.bucket}/runs", f"name={name}"]
    tune = ["tune", "search-digits", *small, *places, "--json"]
    done = gan_dist("submit", "--json", *tune, env=head.env, cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr
    log = done.stdout.splitlines()
    assert len([line for line in log if line.startswith("trial ")]) == 2
    assert [json.loads(line)["trials"] for line in log if line.startswith('{"search"')] == [2]
    # Of Ray there is what its job manager says before the search begins.
    assert [line for line in log if CHATTER.search(line) and "job_manager.py" not in line] == []
    assert (head.home / "study.db").exists()
    held = [("the output", (done.stdout + done.stderr).encode()), *contents(head)]
    # That a search of this kind finds what is there:
    where = " ".join(place for place, content in held if name.encode() in content)
    for place in (
        "the output",
        "job-driver-raysubmit",
        "/api/jobs/",
        "/api/v0/jobs",
        "ray job list",
        "study.db",
    ):
        assert place in where
    assert any(place.startswith(f"{head.bucket}/runs/{name}/") for place, _ in held)
    assert any(place == "metrics" and b"ray_" in content for place, content in held)
    leaks = [
        f"{variable} in {place}"
        for place, content in held
        for variable, secret in head.canaries.items()
        if secret.encode() in content
    ]
    assert leaks == []
