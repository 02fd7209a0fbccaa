"""A disk that is full at a random byte of what a run writes: its last checkpoint stays."""

from __future__ import annotations

import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from gan_dist.artifacts.records import read_valid_records
from gan_dist.config import RunConfig, load_config
from gan_dist.core.errors import StorageError
from gan_dist.training import checkpoint
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from tests.chaos.conftest import Chaos
from tests.support.disks import largest_file, small_disk
from tests.support.inputs import RUN, fresh_state
from tests.support.packing import tensor_hashes

KIB = 4096


def go_on(folder: Path, kimg: float) -> RunConfig:
    torch.set_num_threads(1)
    settings = load_config("digits", [f"storage={folder}", *RUN, f"train.kimg={kimg}", "train.keep=2"])
    train(settings, LocalContext(settings.run_uri))
    return settings


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's
def test_a_full_disk_leaves_the_last_checkpoint_and_a_named_error(chaos: Chaos, tmp_path: Path) -> None:
    """What is left of the disk, or how long a file may be, is drawn from what the whole run writes."""
    before = go_on(tmp_path / "before", 0.128).run_uri
    after = shutil.copytree(before, tmp_path / "after" / "run")
    go_on(after.parent, 0.192)
    written = sum(file.stat().st_size for file in after.glob("*0192/*"))
    largest = max(file.stat().st_size for file in after.glob("*0192/*"))
    hashes = {images: tensor_hashes(str(run)) for images, run in ((128, before), (192, after))}
    seen = Counter[str]()
    with small_disk(tmp_path / "disk", KIB) as disk:
        for _ in range(chaos.rounds(2, 100)):
            run = shutil.copytree(before, disk / "run")
            kind = chaos.random.choice(("disk", "file"))
            filler = disk / "filler"
            if kind == "disk":
                _leave(filler, disk, chaos.random.randrange(written))
                error = _refusal(disk)
                filler.unlink()
            else:
                with largest_file(chaos.random.randrange(largest)):
                    error = _refusal(disk)
            state = fresh_state(tmp_path)
            assert checkpoint.load_latest(state, str(run)).damaged == {}
            assert tensor_hashes(str(run)) == hashes[state.images], error
            assert read_valid_records(str(run))[1] == []
            seen[f"{kind}, at {state.images} images"] += 1
            go_on(disk, 0.192)
            assert tensor_hashes(str(run)) == hashes[192]
            shutil.rmtree(run)
    assert any("at 128" in each for each in seen)
    chaos.keep(rounds=seen.total(), bytes_of_a_save=written, **dict(seen))


def _leave(filler: Path, disk: Path, size: int) -> None:
    """Fill a disk but for so many bytes, in its pages."""
    status = os.statvfs(disk)
    filler.write_bytes(bytes(max(0, status.f_bavail * status.f_frsize - size)))


def _refusal(disk: Path) -> str:
    """Return the error of a run that goes on, empty if the disk was large enough."""
    try:
        go_on(disk, 0.192)
    except StorageError as error:
        return str(error)
    return ""
