"""A cluster of three hosts: a head that trains nothing, two that do, and an S3 server for all they share."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.heads import ROOT, submit
from tests.hosts import Host, host_environment, hosts, ray_cluster, require_namespaces, store_on

TINY = ["model.width=4", "model.latent_dim=8", "train.batch_size=32", "eval.samples=64"]
# A host of three CPUs has room for one worker of two, and a CPU for the tasks that read its images.
PLACED = ["scale.workers=2", "scale.cpus_per_worker=2"]

DIGITS = """
import io, sys, tarfile
from PIL import Image
from gan_dist import storage
from gan_dist.data.builtin import open_builtin

archive = io.BytesIO()
with tarfile.open(fileobj=archive, mode="w") as tar:
    for number, pixels in enumerate(open_builtin("builtin://digits").read_group(0).pixels):
        picture = io.BytesIO()
        Image.fromarray(pixels.reshape(8, 8)).save(picture, "PNG")
        member = tarfile.TarInfo(f"{number:05}.png")
        member.size = picture.tell()
        picture.seek(0)
        tar.addfile(member, picture)
storage.write_bytes(sys.argv[1], archive.getvalue())
"""


@dataclass(frozen=True)
class Cluster:
    """Three hosts with Ray and a store; `env` is what a user has exported on the head."""

    head: Host
    workers: tuple[Host, Host]
    env: dict[str, str]

    def job(self, verb: str, *arguments: str) -> list[str]:
        """Return the command that submits a job from the head."""
        gloo = '{"env_vars": {"GLOO_SOCKET_IFNAME": "eth0"}}'
        command = [
            "ray",
            "job",
            "submit",
            "--working-dir",
            ".",
            f"--runtime-env-json={gloo}",
            "--",
            "python",
            f"jobs/{verb}.py",
        ]
        return self.head.inside(*command, *arguments)

    def submit(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return submit(self.job(verb, *arguments), self.env)

    def read(self, uri: str) -> str:
        code = "import sys; from gan_dist import storage; print(storage.read_text(sys.argv[1]), end='')"
        return self.head.run(sys.executable, "-c", code, uri, env=self.env)

    def trained_on(self) -> set[str]:
        """Return the addresses of all nodes that have ever run a training worker."""
        listed = self.head.run("ray", "list", "nodes", "--format", "json", env=self.env)
        addresses = {node["node_id"]: node["node_ip"] for node in json.loads(listed)}
        workers = ("--filter", "class_name=RayTrainWorker", "--format", "json")
        listed = self.head.run("ray", "list", "actors", *workers, env=self.env)
        return {addresses[actor["node_id"]] for actor in json.loads(listed)}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    require_namespaces()
    with (
        tempfile.TemporaryDirectory(prefix="gd-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        hosts(folder, "head", "alpha", "beta") as (head, alpha, beta),
        store_on(head) as store,
        ray_cluster(head, (alpha, beta), cpus=3, extra=store) as env,
    ):
        yield Cluster(head, (alpha, beta), env)


ANSWER = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), timeout=1)
except ConnectionRefusedError:
    print("refused")
except OSError:
    print("silence")
"""
HOSTS = """
import sys
from tests.hosts import hosts
with hosts(sys.argv[1], "alpha") as (alpha,):
    print(alpha.pid, alpha.switch, flush=True)
    sys.stdin.read()
"""


def test_hosts_meet_on_their_network_alone_and_share_no_folder() -> None:
    require_namespaces()
    env = host_environment()
    with tempfile.TemporaryDirectory() as folder, hosts(folder, "alpha", "beta") as (alpha, beta):
        ask = (sys.executable, "-c", ANSWER, beta.address)
        assert alpha.run("hostname", env=env) == "alpha\n"
        assert alpha.run("getent", "hosts", "alpha", env=env).split() == ["127.0.1.1", "alpha"]
        alpha.run("touch", "/srv/here", env=env)
        assert "here" in alpha.run("ls", "/srv", env=env)
        assert "here" not in beta.run("ls", "/srv", env=env)
        assert alpha.run(*ask, env=env) == "refused\n"
        beta.pull_the_plug()
        assert alpha.run(*ask, env=env) == "silence\n"
        beta.plug_in()
        assert alpha.run(*ask, env=env) == "refused\n"


def test_hosts_end_with_a_test_session_that_is_killed(tmp_path: Path) -> None:
    require_namespaces()
    command = [sys.executable, "-c", HOSTS, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as session:
        assert session.stdout is not None
        pids = session.stdout.readline().split()
        assert len(pids) == 2
        session.kill()
        session.wait(timeout=10)
    deadline = time.monotonic() + 10
    while any(Path("/proc", pid.decode()).exists() for pid in pids) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not [pid for pid in pids if Path("/proc", pid.decode()).exists()]


@pytest.mark.ray
@pytest.mark.slow
def test_two_hosts_train_as_one(cluster: Cluster) -> None:
    cluster.head.run(sys.executable, "-c", DIGITS, "s3://bucket/raw/digits.tar", env=cluster.env)
    packed = cluster.submit("pack", "s3://bucket/raw", "s3://bucket/digits", "--resolution=8", "--channels=1")
    assert packed.returncode == 0, packed.stdout + packed.stderr
    where = ["data.path=s3://bucket/digits", "storage=s3://bucket/runs", "name=two-hosts"]
    done = cluster.submit("train", "digits", *TINY, *PLACED, *where, "train.kimg=0.5", "eval.every_kimg=0.25")
    assert done.returncode == 0, done.stdout + done.stderr
    assert cluster.trained_on() == {worker.address for worker in cluster.workers}
    records = [
        json.loads(line) for line in cluster.read("s3://bucket/runs/two-hosts/metrics.jsonl").splitlines()
    ]
    assert [record["images"] for record in records] == [256, 512]
    best = json.loads(cluster.read("s3://bucket/runs/two-hosts/best.json"))
    cluster.read(f"s3://bucket/runs/two-hosts/{best['release']}/config.yaml")
    cluster.read("s3://bucket/runs/two-hosts/checkpoint_000000000512/manifest.json")


@pytest.mark.ray
@pytest.mark.slow
def test_a_folder_that_hosts_do_not_share_is_refused_for_runs(cluster: Cluster) -> None:
    done = cluster.submit("train", "digits", *TINY, *PLACED, "storage=/srv/runs", "train.kimg=0.1")
    assert done.returncode == 1
    alpha, beta = (worker.address for worker in cluster.workers)
    for address in (alpha, beta):
        assert f"{address} (node " in done.stdout
    assert done.stdout.count("cannot use storage.path, where /srv/runs/digits is") >= 2
    assert "use a bucket or a folder that all nodes share" in done.stdout
    assert "Traceback" not in done.stdout
