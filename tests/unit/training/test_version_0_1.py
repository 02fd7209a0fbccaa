"""A run and a packed set of version 0.1.0 are used by this version."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import gan_dist
from gan_dist.artifacts.records import read_records
from gan_dist.config import load_config
from gan_dist.data.batches.loader import open_images
from gan_dist.data.shards.verify import verify_set
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train

EARLIER = Path(__file__).parents[2] / "data" / "version_0_1"
PIXELS = "10f38c23e4daac35a48db75bf8f5a97afc4c4b06e8087c5b7331fe433ff95b7f"
"""SHA-256 of the pixels of the set, row group after row group."""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    return shutil.copytree(EARLIER / "run", tmp_path / "run")


def go_on(run: Path, kimg: float) -> None:
    torch.set_num_threads(1)
    overrides = [f"storage={run.parent}", "name=run", f"train.kimg={kimg}"]
    train(load_config(str(run / "config.yaml"), overrides), LocalContext(str(run)))


def test_its_run_is_continued_from_its_end(run: Path) -> None:
    go_on(run, 0.96)
    assert [record["images"] for record in read_records(str(run))] == [320, 640, 960]
    assert gan_dist.load(str(run)).sample(4, seed=0).shape == (4, 1, 16, 16)


def test_its_run_is_continued_as_it_was_continued_by_itself(run: Path) -> None:
    shutil.rmtree(run / "checkpoint_000000000640")
    go_on(run, 0.64)
    for file in sorted((EARLIER / "run" / "checkpoint_000000000640").glob("*.safetensors")):
        then, now = load_file(file), load_file(run / file.parent.name / file.name)
        assert then.keys() == now.keys()
        for name in then:
            # The same bits on one kind of machine; another rounds otherwise.
            torch.testing.assert_close(now[name], then[name], rtol=1e-2, atol=1e-4)


def test_its_release_gives_images(run: Path) -> None:
    release = gan_dist.load(str(run / "best_000000000640"))
    assert release.record["images"] == 640
    assert release.sample(2).dtype == torch.uint8


def test_its_set_is_read() -> None:
    assert verify_set(str(EARLIER / "set")).count == 24
    images = open_images(str(EARLIER / "set"))
    rows = [images.read_group(group) for group in range(len(images.group_rows))]
    pixels = b"".join(some.pixels.tobytes() for some in rows)
    assert hashlib.sha256(pixels).hexdigest() == PIXELS
