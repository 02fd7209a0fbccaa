"""A cluster of three hosts: a head that trains nothing, two that do, and an S3 server for all they share."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from tests.support.heads import ROOT, submit
from tests.support.hosts import Host, host_environment, hosts, ray_cluster, require_namespaces, store_on

TINY = ["model.width=4", "model.latent_dim=8", "train.batch_size=32", "eval.samples=64"]
# A host of three CPUs has room for one worker of two, and a CPU for the tasks that read its images.
PLACED = ["scale.workers=2", "scale.cpus_per_worker=2"]

DIGITS = """
import io, sys, tarfile
from PIL import Image
from gan_dist.core import storage
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


READ = """
import json, sys
from gan_dist.core import storage

run = sys.argv[1]
read = lambda *path: storage.read_text(storage.join(run, *path))
whole = [name for name in storage.list_names(run)
         if name.startswith("checkpoint_") and storage.exists(storage.join(run, name, "manifest.json"))]
best = json.loads(read("best.json"))
assert read(best["release"], "config.yaml")
print(json.dumps({
    "records": [json.loads(line) for line in read("metrics.jsonl").splitlines()],
    "newest_checkpoint": max(int(name[11:23]) for name in whole),
}))
"""
TRAINED_ON = """
import json
from ray.util.state import list_actors, list_nodes

addresses = {node.node_id: node.node_ip for node in list_nodes()}
workers = list_actors(filters=[("class_name", "=", "RayTrainWorker")])
print(json.dumps([addresses[actor.node_id] for actor in workers]))
"""


@dataclass(frozen=True)
class RunFolder:
    """A run's folder, whose best release is whole."""

    records: list[dict[str, Any]]
    """Every line of metrics.jsonl."""
    newest_checkpoint: int
    """Images that the run has seen at its newest checkpoint that is whole."""


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

    def run_folder(self, run: str) -> RunFolder:
        """Return what a run's folder in the store holds."""
        uri = f"s3://bucket/runs/{run}"
        return RunFolder(**json.loads(self.head.run(sys.executable, "-c", READ, uri, env=self.env)))

    def trained_on(self) -> set[str]:
        """Return the addresses of all nodes that have ever run a training worker."""
        return set(json.loads(self.head.run(sys.executable, "-c", TRAINED_ON, env=self.env)))


QUICK = {"period_ms": "1000", "timeout_ms": "3000", "failure_threshold": "4"}
"""How soon a node that is silent counts as dead: in 16 s; by Ray's defaults (3000, 10000, 5) in 65 s."""


@contextmanager
def three_hosts(**health_check: str) -> Iterator[Cluster]:
    """Run a head and two workers; the store holds the digits at `s3://bucket/digits`."""
    require_namespaces()
    checks = {f"RAY_health_check_{key}": value for key, value in health_check.items()}
    with (
        tempfile.TemporaryDirectory(prefix="gd-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        hosts(folder, "head", "alpha", "beta") as (head, alpha, beta),
        store_on(head) as store,
        ray_cluster(head, (alpha, beta), cpus=3, extra={**store, **checks}) as env,
    ):
        copy = "import sys; from gan_dist.core import storage; storage.copy_tree(*sys.argv[1:])"
        digits = ROOT / "gan_dist" / "assets" / "digits"
        head.run(sys.executable, "-c", copy, str(digits), "s3://bucket/digits", env=env)
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
from tests.support.hosts import hosts
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
def test_hosts_refuse_a_folder_that_they_do_not_share_and_a_run_goes_on_when_one_is_cut_off() -> None:
    with three_hosts(**QUICK) as cluster:
        command = ["gan-dist", "train", "digits", *TINY, *PLACED, "storage=/srv/runs", "train.kimg=0.1"]
        refused = subprocess.run(
            cluster.head.inside(*command),
            env={**cluster.env, "RAY_ADDRESS": f"{cluster.head.address}:6379"},
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert refused.returncode == 2
        for worker in cluster.workers:
            assert f"{worker.address} (node " in refused.stderr
        assert refused.stderr.count("cannot use storage.path, where /srv/runs/digits is") >= 2
        assert "use a bucket or a folder that all nodes share" in refused.stderr
        assert "Traceback" not in refused.stderr
        goes_on_when_cut_off(cluster, cluster.workers[1])


@pytest.mark.ray
@pytest.mark.soak
@pytest.mark.parametrize("victim", [0, 1])
def test_whichever_host_is_cut_off_and_with_rays_own_patience(victim: int) -> None:
    with three_hosts() as cluster:
        goes_on_when_cut_off(cluster, cluster.workers[victim])


@pytest.mark.ray
@pytest.mark.soak
def test_images_are_packed_by_one_host_and_trained_on_by_two() -> None:
    with three_hosts() as cluster:
        cluster.head.run(sys.executable, "-c", DIGITS, "s3://bucket/raw/digits.tar", env=cluster.env)
        form = ["--resolution=8", "--channels=1"]
        packed = cluster.submit("pack", "s3://bucket/raw", "s3://bucket/packed", *form)
        assert packed.returncode == 0, packed.stdout + packed.stderr
        where = ["data.path=s3://bucket/packed", "storage=s3://bucket/runs"]
        length = ["train.kimg=0.512", "eval.every_kimg=0.256"]
        done = cluster.submit("train", "digits", *TINY, *PLACED, *where, *length)
        assert done.returncode == 0, done.stdout + done.stderr
        assert cluster.trained_on() == {worker.address for worker in cluster.workers}
        assert [record["images"] for record in cluster.run_folder("digits").records] == [256, 512]


def goes_on_when_cut_off(cluster: Cluster, victim: Host) -> None:
    """Start a run on both workers, cut one off in its middle, and see what comes of it."""
    run = f"without-{victim.name}"
    where = ["data.path=s3://bucket/digits", "storage=s3://bucket/runs", f"name={run}"]
    length = ["train.kimg=3.072", "eval.every_kimg=0.512", "log.every_kimg=0.512", "log.every_s=0.2"]
    length += ["scale.min_workers=1"]
    job = subprocess.Popen(
        cluster.job("train", "digits", *TINY, *PLACED, *where, *length),
        env=cluster.env,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert job.stdout is not None
    said = []
    for line in job.stdout:
        said.append(line)
        reached = re.match(r"([\d.]+)/3.1 kimg", line)
        if reached and float(reached[1]) > 1:
            break
    else:
        pytest.fail("".join(said))
    # Cut off between a record and its checkpoint, the run measures that one again.
    found = cluster.run_folder(run)
    before = [record for record in found.records if record["images"] <= found.newest_checkpoint]
    assert before
    victim.pull_the_plug()
    cut_at = datetime.now(UTC)
    output, _ = job.communicate(timeout=500)
    assert job.returncode == 0, output
    assert cluster.trained_on() == {worker.address for worker in cluster.workers}

    # Nothing is lost that was saved: what had been measured stands as it was written.
    told = re.search(rf"lost {victim.address}; the run goes on from ([\d.]+) kimg", output)
    assert told, output
    folder = cluster.run_folder(run)
    records = folder.records
    assert [record["images"] for record in records] == list(range(512, 3073, 512)), output
    assert records[: len(before)] == before
    saved = [record for record in records if datetime.fromisoformat(record["time"]) <= cut_at]
    assert float(told[1]) * 1000 == saved[-1]["images"]
    assert len(before) <= len(saved) < len(records)
    assert folder.newest_checkpoint == 3072
