"""`gan-dist train IMAGES` on a real Ray: the bits of `pack` and `train`, and a disk that is full."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest
import torch

from gan_dist import cli
from gan_dist.cli.images import packed, read_given
from gan_dist.config import load_config
from gan_dist.core.errors import StorageError
from gan_dist.data.packing.training_set import LISTING
from gan_dist.data.shards.shard_set import ShardSet
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from tests.support.disks import small_disk
from tests.support.packing import save_photos, tensor_hashes

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
SMALL = (
    *("model.width=4", "model.latent_dim=8", "train.batch_size=16", "eval.samples=32", "train.kimg=0.064"),
    *("eval.every_kimg=0.032", "eval.extractor=random", "scale.workers=1", "scale.cpus_per_worker=1"),
)


def run(*arguments: object) -> None:
    """Run the command line in this process, on the cluster that is connected."""
    cli.app([str(argument) for argument in arguments], standalone_mode=False)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*fewer than the extractor's")
def test_images_are_trained_on_with_the_bits_of_pack_and_train(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photos = save_photos(tmp_path / "photos", 40, (16, 40))
    run("train", photos, f"storage={tmp_path}/runs", *SMALL, "--json")
    out, err = capsys.readouterr()
    record = json.loads(out.splitlines()[-1])
    assert record["finished"]
    assert "packing 40 images of" in err
    assert f"packed 40 images at 16x16 in {tmp_path}/runs/.packed/photos-" in err

    run("pack", photos, tmp_path / "set", "--resolution", "16")
    config = load_config(
        f"{record['run']}/config.yaml", [f"data.path={tmp_path}/set", f"storage={tmp_path}/b"]
    )
    made = load_config(f"{record['run']}/config.yaml").data.path
    assert ShardSet(made).manifest.shards == ShardSet(str(tmp_path / "set")).manifest.shards
    torch.set_num_threads(1)  # as in a worker of one CPU
    train(config, LocalContext(config.run_uri))
    assert tensor_hashes(record["run"]) == tensor_hashes(config.run_uri)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", kib=1300) as folder:
        yield folder


def test_a_disk_that_fills_while_packing_is_named_and_the_same_command_goes_on(
    disk: Path, tmp_path: Path
) -> None:
    photos = save_photos(tmp_path / "photos", 20, (64, 64))
    given = read_given(str(photos), [f"storage={disk}/runs", *SMALL])
    assert given.images is not None
    path = given.images.path

    def fill() -> None:
        while not Path(path, LISTING).exists():
            time.sleep(0.001)
        with suppress(OSError):
            Path(disk, "other").write_bytes(bytes(2**21))

    with ThreadPoolExecutor(1) as pool:
        pool.submit(fill)
        with (
            pytest.raises(StorageError, match=r"needs [\d,]+ more bytes, and its disk has"),
            packed(given),
        ):
            pytest.fail("the set fits")
    Path(disk, "other").unlink()
    again = read_given(str(photos), [f"storage={disk}/runs", *SMALL])
    with packed(again) as settings:
        assert settings.config().data.path == path
    assert ShardSet(path).manifest.count == 20
