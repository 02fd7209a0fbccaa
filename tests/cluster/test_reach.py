"""Addresses at which no cluster is, and clusters that do not take this process, told apart in seconds."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster
from typer.testing import CliRunner

from gan_dist.cli import app
from gan_dist.cluster.connect import join
from gan_dist.cluster.nodes import doctor_checks, head_probe
from gan_dist.cluster.nodes.head_probe import HeadState, probe_head, require_reachable
from gan_dist.core.errors import ClusterError
from tests.support.ports import free_port
from tests.support.web import serving


@pytest.fixture
def listener() -> Iterator[tuple[socket.socket, int]]:
    """A program that takes connections and never says anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server, server.getsockname()[1]


@pytest.fixture
def web() -> Iterator[str]:
    with serving(BaseHTTPRequestHandler) as url:
        yield url.removeprefix("http://")


def test_nobody_and_strangers_are_told_apart(
    listener: tuple[socket.socket, int], web: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(head_probe, "WAIT_S", 1.0)
    assert probe_head(f"127.0.0.1:{free_port()}").state is HeadState.UNREACHABLE
    assert probe_head("no-such-host.invalid:6379").state is HeadState.UNREACHABLE
    assert probe_head(f"127.0.0.1:{listener[1]}").state is HeadState.NOT_RAY
    assert probe_head(web).state is HeadState.NOT_RAY


@pytest.mark.parametrize(
    ("address", "said"),
    [
        ("127.0.0.1:{port}", "nobody answers there"),
        ("http://user:hidden@127.0.0.1:8265", "use host:6379 .* gan-dist submit with RAY_API_SERVER_ADDRESS"),
        ("ray://127.0.0.1:10001", "use host:6379 .* gan-dist submit with RAY_API_SERVER_ADDRESS"),
        ("head", "use host:port"),
        ("head:ray", "use host:port"),
    ],
)
def test_a_wrong_address_is_refused_before_ray_waits_for_it(address: str, said: str) -> None:
    with pytest.raises(ClusterError, match=said) as caught:
        join(address.format(port=free_port()))
    assert "hidden" not in str(caught.value)


def test_a_token_file_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN_PATH", "/no/such/file")
    monkeypatch.delenv("RAY_AUTH_TOKEN", raising=False)
    with pytest.raises(ClusterError, match="RAY_AUTH_TOKEN_PATH=/no/such/file is no file"):
        require_reachable(f"127.0.0.1:{free_port()}")


def test_ports_that_others_hold_are_named(
    listener: tuple[socket.socket, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(head_probe, "WAIT_S", 1.0)
    monkeypatch.setattr(doctor_checks, "PORTS", {"port": free_port(), "dashboard-port": free_port()})
    assert [one.level for one in doctor_checks.ports()] == ["ok"]
    monkeypatch.setattr(doctor_checks, "PORTS", {"port": listener[1], "dashboard-port": free_port()})
    (found,) = doctor_checks.ports()
    assert (found.level, str(listener[1]) in found.what) == ("warning", True)
    assert found.remedy == f"ray start --head --port={listener[1] + 1000}"


def test_a_dashboard_that_is_not_there_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setenv("RAY_API_SERVER_ADDRESS", f"http://127.0.0.1:{free_port()}")
    (found,) = doctor_checks.token()
    assert (found.name, found.level) == ("token", "error")
    assert "RAY_API_SERVER_ADDRESS" in found.remedy


class Dashboard(BaseHTTPRequestHandler):
    """What a dashboard says to who asks for its version; `token` is the one that it wants, if any."""

    token: str | None
    body = b'{"ray_version": "2.60.0"}'

    def do_GET(self) -> None:
        given = self.headers.get("Authorization")
        wanted = self.token and f"Bearer {self.token}"
        status = 200 if given == wanted or not wanted else 403 if given else 401
        body = self.body if status == 200 else b"no"
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None: ...


@pytest.mark.parametrize(
    ("wanted", "given", "body", "said"),
    [
        (None, None, Dashboard.body, "answers without a token"),
        ("right", None, Dashboard.body, "wants a token"),
        ("right", "other", Dashboard.body, "refuses this token"),
        ("right", "right", Dashboard.body, "refuses who has no token"),
        (None, None, b"<html>", "is no dashboard of Ray's"),
    ],
)
def test_a_dashboard_is_asked_whom_it_lets_in(
    wanted: str | None, given: str | None, body: bytes, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    monkeypatch.setattr(
        doctor_checks, "auth_headers", lambda: {"Authorization": f"Bearer {given}"} if given else {}
    )
    with serving(type("Handler", (Dashboard,), {"token": wanted, "body": body})) as url:
        monkeypatch.setenv("RAY_API_SERVER_ADDRESS", url)
        assert said in next(iter(doctor_checks.token())).what


@pytest.mark.ray
@pytest.mark.slow
def test_a_cluster_without_a_token_is_an_error_whether_or_not_it_is_named(
    cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_ADDRESS", cluster.address)
    done = CliRunner().invoke(app, ["doctor", "--timeout", "60", "--json"], catch_exceptions=False)
    assert done.exit_code == 2
    found = {one["name"]: one for one in json.loads(done.stdout.splitlines()[-1])["checks"]}
    assert {name for name, one in found.items() if one["level"] == "error"} == {"token"}
    assert f"{cluster.address} answers without a token" in found["token"]["what"]
    assert "RAY_AUTH_MODE=token" in found["token"]["remedy"]
    assert found["cluster"]["level"] == found["nodes"]["level"] == "ok"

    # Found without being named, where Ray's own ports would be.
    monkeypatch.setattr(doctor_checks, "PORTS", {"port": int(cluster.address.rpartition(":")[2])})
    monkeypatch.delenv("RAY_ADDRESS")
    levels = [(one.name, one.level) for one in doctor_checks.ports()]
    assert levels == [("ports", "warning"), ("token", "error")]
