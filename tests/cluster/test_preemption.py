"""Nodes that leave while a run is on them, as `ray drain-node` and autoscalers announce it."""

from __future__ import annotations

import json
import shutil
import sys
import time
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from gan_dist.artifacts.records import read_records
from gan_dist.cluster.train import driver
from gan_dist.core.storage.hashed_folder import checkpoint_names
from gan_dist.training import checkpoint as states
from tests.cluster.conftest import AddNode
from tests.support.preemption import ENDLESS, often, once
from tests.unit.training.test_training import assert_same_bits, config, run, tensors

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("a_busy_head")]

BATCH = 32


def test_a_run_goes_on_without_the_node_that_leaves(
    cluster: Cluster, add_node: AddNode, tmp_path: Path
) -> None:
    seen = once(cluster, add_node, str(tmp_path))

    assert seen.error is None
    leaves, on = seen.notes
    assert "leaves the cluster: writing a checkpoint" in leaves
    assert on.endswith("on with 1 of 2 workers")
    assert seen.lost == [0]
    assert seen.outcome is not None
    ended, drained = [int(name[11:]) for name in checkpoint_names(str(tmp_path / "run"))]
    assert 0 < drained < ended == seen.outcome.images

    # From the checkpoint of two workers on, one of them has the bits of a run without Ray.
    settings = config(tmp_path / "again", *ENDLESS, f"train.kimg={ended / 1000}")
    name = states.checkpoint_name(drained, [])
    shutil.copytree(tmp_path / "run" / name, tmp_path / "again" / "run" / name)
    assert run(settings).images == ended
    assert_same_bits(tensors(settings), tensors(config(tmp_path, *ENDLESS)))


@pytest.mark.soak
def test_of_twenty_nodes_that_leave_none_costs_more_than_a_step(
    cluster: Cluster, add_node: AddNode, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "GROW_S", 1.0)
    began = time.monotonic()
    seen = often(cluster, add_node, str(tmp_path), drains=20, seed=0)

    assert seen.error is None
    assert len([note for note in seen.notes if "leaves the cluster" in note]) >= 15
    assert not [note for note in seen.notes if "failed" in note or "died" in note or "lost" in note]
    assert max(seen.lost) <= BATCH
    assert seen.outcome is not None
    images = [record["images"] for record in read_records(str(tmp_path / "run"))]
    assert images == sorted(set(images))
    assert images[-1] <= states.newest_images(str(tmp_path / "run")) == seen.outcome.images
    figures = {"lost": seen.lost, "groups": seen.groups, "images": seen.images}
    sys.stdout.write(json.dumps({**figures, "seconds": time.monotonic() - began}) + "\n")
