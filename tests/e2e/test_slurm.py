"""slurm.sbatch on three hosts: warned, put into the queue again, and ended with an undisturbed run's bits."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil
import pytest

from gan_dist.config import load_config
from gan_dist.core.storage.hashed_folder import checkpoint_names
from tests.support.gloo import run_gloo
from tests.support.heads import ROOT
from tests.support.hosts import Host, host_environment, hosts, require_namespaces
from tests.unit.training.test_training import run_on_ranks

SRUN = """#!/bin/bash
while [[ "$1" == --* ]]; do shift; done
env -0 > "$SPOOL/env"
printf '%s\\0' "$@" > "$SPOOL/step.part"
mv "$SPOOL/step.part" "$SPOOL/step"
while [[ ! -s "$SPOOL/code" ]]; do sleep 0.1; done
exit "$(cat "$SPOOL/code")"
"""
SCONTROL = """#!/bin/bash
echo "$*" >> "$SPOOL/requeued"
"""
SETTINGS = ["model.width=4", "model.latent_dim=8", "train.batch_size=48", "train.kimg=4.8"]
SETTINGS += ["eval.samples=64", "eval.target=null", "eval.every_kimg=0.96", "eval.extractor=digits"]
SETTINGS += ["scale.workers=3"]


@dataclass(frozen=True)
class Slurm:
    """A queue of one job on some hosts; its commands leave files in `spool`, and a test does the work."""

    nodes: tuple[Host, ...]
    spool: Path
    env: dict[str, str]

    def run_job(self, *arguments: str, warned: Callable[[], bool] = lambda: False) -> int:
        """Run the job to its end, and warn it once `warned` is true, as Slurm does; return its exit code."""
        for name in ("step", "code"):
            (self.spool / name).unlink(missing_ok=True)
        script = ROOT / "jobs" / "cluster" / "slurm.sbatch"
        with (self.spool / "log").open("a") as log:
            batch = subprocess.Popen(
                self.nodes[0].inside("bash", str(script), *arguments), env=self.env, stdout=log, stderr=log
            )
            while not (self.spool / "step").exists():
                assert batch.poll() is None, (self.spool / "log").read_text()
                time.sleep(0.1)
            words = [word.decode() for word in (self.spool / "step").read_bytes().split(b"\0")[:-1]]
            given = (self.spool / "env").read_text().split("\0")[:-1]
            env = dict(one.split("=", 1) for one in given)
            tasks = [
                subprocess.Popen(node.inside(*words), env=env, stdout=log, stderr=log) for node in self.nodes
            ]
            waiting = True
            while any(task.poll() is None for task in tasks):
                if waiting and warned():
                    (bash,) = psutil.Process(batch.pid).children()
                    bash.send_signal(signal.SIGUSR1)
                    waiting = False
                if any(task.poll() for task in tasks):  # --kill-on-bad-exit
                    for task in tasks:
                        with suppress(psutil.NoSuchProcess):
                            for process in psutil.Process(task.pid).children(recursive=True):
                                process.kill()
                time.sleep(0.1)
            (self.spool / "code").write_text(f"{max(abs(task.returncode) for task in tasks)}\n")
            return batch.wait(timeout=60)


@pytest.mark.ray
@pytest.mark.soak
@pytest.mark.timeout(1200)
def test_a_job_that_is_warned_goes_on_from_the_queue_to_the_same_bits(tmp_path: Path) -> None:
    require_namespaces()
    for name, content in {"srun": SRUN, "scontrol": SCONTROL}.items():
        (tmp_path / name).write_text(content)
        (tmp_path / name).chmod(0o755)
    whole = load_config("digits", [f"storage={tmp_path}/whole", "name=run", *SETTINGS])
    run_gloo(run_on_ranks, 3, whole)
    with (
        tempfile.TemporaryDirectory(prefix="gd-", dir="/tmp", ignore_cleanup_errors=True) as folder,
        hosts(folder, "alpha", "beta", "gamma") as nodes,
    ):
        slurm = {"SLURM_JOB_ID": "31", "SLURM_JOB_NUM_NODES": "3", "SLURM_SUBMIT_DIR": str(tmp_path)}
        env = host_environment(
            **slurm,
            SPOOL=str(tmp_path),
            GLOO_SOCKET_IFNAME="eth0",
            RAY_AUTH_TOKEN="slurm-" + os.urandom(16).hex(),
            RAY_gcs_rpc_server_reconnect_timeout_s="5",
        )
        env["PATH"] = f"{tmp_path}:{env['PATH']}"
        queue, run = Slurm(nodes, tmp_path, env), tmp_path / "job" / "run"
        command = ["train", "digits", f"storage={tmp_path}/job", "name=run", *SETTINGS]
        code = queue.run_job(*command, warned=(run / "metrics.jsonl").exists)
        log = (tmp_path / "log").read_text()
        assert code == 130, log
        assert (tmp_path / "requeued").read_text() == "requeue 31\n", log
        stopped = int(checkpoint_names(str(run))[0][11:23])
        assert 960 <= stopped < 4800
        assert queue.run_job(*command) == 0, (tmp_path / "log").read_text()
        assert (tmp_path / "requeued").read_text() == "requeue 31\n"
    for newest in checkpoint_names(whole.run_uri)[:1]:
        files = sorted(Path(whole.run_uri, newest).glob("*.safetensors"))
        assert len(files) >= 3
        for file in files:
            assert (run / newest / file.name).read_bytes() == file.read_bytes(), file.name
