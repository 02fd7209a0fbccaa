"""cluster.yaml brought to life by Ray's launcher and autoscaler, moto as an EC2 without spot instances."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import boto3
import pytest
import yaml

from tests.support.heads import ROOT, environment
from tests.support.ports import free_ports
from tests.support.s3 import KEYS, s3_server
from tests.support.web import serving

REGION = "us-west-2"
REFUSAL = (
    b"<Response><Errors><Error><Code>InsufficientInstanceCapacity</Code>"
    b"<Message>no spot today</Message></Error></Errors><RequestID>r</RequestID></Response>"
)


class _NoSpot(BaseHTTPRequestHandler):
    """Everything goes to moto, but requests for spot instances: those EC2 refuses."""

    upstream = ""
    refused = 0
    protocol_version = "HTTP/1.1"

    def _pass(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if b"Action=RunInstances" in body and b"MarketType=spot" in body:
            type(self).refused += 1
            return self._answer(500, REFUSAL, {})
        headers = {k: v for k, v in self.headers.items() if k.lower() not in ("connection", "content-length")}
        request = urllib.request.Request(
            self.upstream + self.path, body or None, headers, method=self.command
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return self._answer(answer.status, answer.read(), dict(answer.headers))
        except urllib.error.HTTPError as error:
            return self._answer(error.code, error.read(), dict(error.headers))

    def _answer(self, status: int, body: bytes, headers: dict[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Type", headers.get("Content-Type", "text/xml"))
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = _pass  # noqa: N815

    def log_message(self, format: str, *args: object) -> None: ...


@contextmanager
def aws_without_spot() -> Iterator[tuple[str, type[_NoSpot]]]:
    with s3_server() as upstream:
        handler: type[_NoSpot] = type("Handler", (_NoSpot,), {"upstream": upstream})
        with serving(handler) as url:
            yield url, handler


def instances() -> dict[str, dict[str, Any]]:
    """By node type, what was started."""
    reservations = boto3.client("ec2", region_name=REGION).describe_instances()["Reservations"]
    started = [instance for each in reservations for instance in each["Instances"]]
    return {
        tag["Value"]: instance
        for instance in started
        for tag in instance["Tags"]
        if tag["Key"] == "ray-user-node-type"
    }


def status(request: urllib.request.Request) -> int:
    try:
        with urllib.request.urlopen(request, timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def start_nodes(config: dict[str, Any], types: list[str]) -> Any:
    """Start a node of each type, as the launcher does; returns the provider."""
    from ray.autoscaler._private.providers import _get_node_provider

    provider = _get_node_provider(config["provider"], config["cluster_name"])
    for name in types:
        tags = {
            "ray-node-type": "head" if name == "head" else "worker",
            "ray-user-node-type": name,
            "ray-node-name": name,
            "ray-node-status": "up-to-date",
            "ray-launch-config": "tested",
        }
        provider.create_node(config["available_node_types"][name]["node_config"], tags, 1)
    return provider


def raylet_environment(parent: int) -> list[str]:
    children = Path(f"/proc/{parent}/task/{parent}/children").read_text().split()
    (raylet,) = (pid for pid in children if Path(f"/proc/{pid}/comm").read_text() == "raylet\n")
    return Path(f"/proc/{raylet}/environ").read_text().split("\0")


@contextmanager
def head(
    folder: str, home: Path, config: dict[str, Any], head_id: str
) -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """What `ray up` does on the head over SSH. Yields the dashboard's URL and the process of start.sh."""
    bootstrap = Path(folder, "bootstrap.yaml")
    bootstrap.write_text(json.dumps(config))
    names = ("port", "dashboard-port", "ray-client-server-port", "dashboard-agent-listen-port")
    ports = dict(zip(names, free_ports(len(names)), strict=True))
    env = environment(
        folder,
        HOME=str(home),
        OMP_NUM_THREADS="1",  # as `ray up` sets it
        RAY_enable_autoscaler_v2="1",
        RAY_CLOUD_INSTANCE_ID=head_id,
        RAY_NODE_TYPE_NAME="head",
        RAY_OVERRIDE_RESOURCES=json.dumps(config["available_node_types"]["head"]["resources"]),
        RAY_GRACEFUL_SHUTDOWN_DRAIN_TIMEOUT_S="7",
        AUTOSCALER_UPDATE_INTERVAL_S="1",
    )
    command = [str(ROOT / "jobs/cluster/start.sh"), "head", "--block", f"--autoscaling-config={bootstrap}"]
    command += [f"--temp-dir={folder}", "--node-ip-address=127.0.0.1"]
    command += [f"--{name}={port}" for name, port in ports.items()]
    log = Path(folder, "head.log")
    for _ in range(3):
        with log.open("w") as out:
            process = subprocess.Popen(command, env=env, stdout=out, stderr=out)
        while process.poll() is None and "Ray runtime started" not in log.read_text():
            time.sleep(0.5)
        # Ray gives up where its first process takes more than 30 s, as on a machine that is busy otherwise.
        if process.poll() is None or "timed out during startup" not in log.read_text():
            break
    try:
        assert process.poll() is None, log.read_text()
        yield f"http://127.0.0.1:{ports['dashboard-port']}", process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


@pytest.mark.ray
@pytest.mark.slow
def test_gpu_nodes_come_on_demand_where_there_is_no_spot_and_nobody_enters_without_the_token(
    ray_folder: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray.autoscaler._private.commands import _bootstrap_config

    token = "t" * 8 + os.urandom(16).hex()
    home = tmp_path / "home"
    (home / ".ray").mkdir(parents=True)
    (home / ".ray" / "auth_token").write_text(token)
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.chdir(ROOT)
    for key, value in KEYS.items():
        monkeypatch.setenv(key, value)
    with aws_without_spot() as (url, handler):
        monkeypatch.setenv("AWS_ENDPOINT_URL", url)
        for profile in ("gan-dist-head", "gan-dist-worker"):
            boto3.client("iam", region_name=REGION).create_instance_profile(InstanceProfileName=profile)

        # As `ray up` reads it: schema, defaults, instance types, key pair, subnets, security group.
        config = _bootstrap_config(yaml.safe_load(Path("cluster.yaml").read_text()), no_config_cache=True)
        types = config["available_node_types"]
        assert types["head"]["resources"]["CPU"] == 0
        assert types["gpu"]["resources"]["GPU"] == 1
        assert types["cpu"]["resources"]["CPU"] == 16
        assert "GPU" not in types["cpu"]["resources"]
        assert types["head"]["max_workers"] == 0

        provider = start_nodes(config, ["head", "cpu"])
        (head_id,) = provider.non_terminated_nodes({"ray-node-type": "head"})
        types["gpu"]["min_workers"] = 1  # the demand for a GPU
        with head(ray_folder, home, {**config, "no_restart": False}, head_id) as (dashboard, process):
            deadline = time.monotonic() + 240
            while "gpu" not in (started := instances()) and time.monotonic() < deadline:
                assert process.poll() is None, Path(ray_folder, "head.log").read_text()
                time.sleep(1)
            assert "gpu" in started, Path(ray_folder, "session_latest/logs/monitor.log").read_text()
            assert handler.refused > 0  # in every zone, before the second choice
            assert started["gpu"]["InstanceType"] == "g6.2xlarge"
            assert "InstanceLifecycle" not in started["gpu"]  # "spot" where it is one
            for name, profile in {"head": "head", "gpu": "worker", "cpu": "worker"}.items():
                assert started[name]["IamInstanceProfile"]["Arn"].endswith(f"/gan-dist-{profile}")
                assert started[name]["MetadataOptions"]["HttpTokens"] == "required"

            jobs = dashboard + "/api/jobs/"
            body = json.dumps({"entrypoint": "echo entered"}).encode()
            headers = {"Content-Type": "application/json"}
            for given in ({}, {"Authorization": "Bearer wrong"}):
                request = urllib.request.Request(jobs, body, {**headers, **given}, method="POST")
                assert status(request) in (401, 403)
            # What every job's supervisor inherits: a stopped job has time for a checkpoint.
            inherited = raylet_environment(process.pid)
            assert "RAY_JOB_STOP_SIGNAL=SIGINT" in inherited
            assert "RAY_JOB_STOP_WAIT_TIME_S=30" in inherited
            assert not any(each.startswith("OMP_NUM_THREADS") for each in inherited)

            allowed = urllib.request.Request(jobs, headers={"Authorization": f"Bearer {token}"})
            assert status(allowed) == 200
    log = Path(ray_folder, "head.log").read_text()
    # Told to end, a node that start.sh started leaves the cluster first.
    assert "Draining for up to 7.0 seconds" in log
    assert token not in log
