"""Nodes that leave while a run is on them, as `ray drain-node` and autoscalers announce it."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gan_dist.artifacts.records import read_records
from gan_dist.training import checkpoint as states
from tests.support.heads import ROOT, environment
from tests.support.preemption import ENDLESS
from tests.unit.training.test_training import assert_same_bits, config, run, tensors

pytestmark = [pytest.mark.ray, pytest.mark.slow]

BATCH = 32


def watched(ray_folder: str, folder: Path, drains: int, *, timeout_s: float) -> dict[str, Any]:
    command = [sys.executable, "-m", "tests.support.preemption", str(folder), str(drains), "0"]
    env = environment(ray_folder, HOME=ray_folder, RAY_raylet_start_wait_time_s="120")
    done = subprocess.run(
        command, env=env, cwd=ROOT, capture_output=True, text=True, timeout=timeout_s, check=False
    )
    assert done.returncode == 0, done.stderr[-5000:]
    seen: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    assert seen["error"] is None
    return seen


def test_a_run_goes_on_without_the_node_that_leaves(ray_folder: str, tmp_path: Path) -> None:
    seen = watched(ray_folder, tmp_path, 1, timeout_s=580)

    leaves, on = seen["notes"]
    assert "leaves the cluster: writing a checkpoint" in leaves
    assert on.endswith("on with 1 of 2 workers")
    assert seen["lost"] == [0]
    drained, ended = [record["images"] for record in read_records(str(tmp_path / "run"))]
    assert 0 < drained < ended == seen["outcome"]["images"]

    # From the checkpoint of two workers on, one of them has the bits of a run without Ray.
    settings = config(tmp_path / "again", *ENDLESS, f"train.kimg={ended / 1000}")
    name = states.checkpoint_name(drained, [])
    shutil.copytree(tmp_path / "run" / name, tmp_path / "again" / "run" / name)
    assert run(settings).images == ended
    assert_same_bits(tensors(settings), tensors(config(tmp_path, *ENDLESS)))


@pytest.mark.soak
def test_of_twenty_nodes_that_leave_none_costs_more_than_a_step(ray_folder: str, tmp_path: Path) -> None:
    seen = watched(ray_folder, tmp_path, 20, timeout_s=7000)

    assert len([note for note in seen["notes"] if "leaves the cluster" in note]) >= 15
    assert not [note for note in seen["notes"] if "failed" in note or "died" in note or "lost" in note]
    assert max(seen["lost"]) <= BATCH
    images = [record["images"] for record in read_records(str(tmp_path / "run"))]
    assert images == sorted(set(images))
    assert images[-1] == seen["outcome"]["images"]
    figures = {key: seen[key] for key in ("lost", "groups", "images", "seconds")}
    sys.stdout.write(json.dumps(figures) + "\n")
