"""Runs on images that are not square and have alpha, from the set to what is made of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image

import gan_dist
from gan_dist.artifacts.best import find_best
from gan_dist.artifacts.export import describe
from gan_dist.artifacts.model_card import model_card
from gan_dist.artifacts.records import read_records
from gan_dist.artifacts.sampling import write_images
from gan_dist.config import RunConfig, load_config
from gan_dist.core.errors import ConfigError
from gan_dist.core.storage import StorageOptions
from gan_dist.evaluation.assess import assess
from gan_dist.evaluation.tasks import Request, run_here
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from gan_dist.training.preflight import summarise

SET = "builtin://shapes?count=64&resolution=16x8&channels=4"
TINY = [
    *("name=run", f"data.path='{SET}'", "data.mirror=true", "data.augment=ada", "eval.target=null"),
    *("model.name=resnet", "model.max_width=null", "model.width=4", "model.latent_dim=4"),
    *("train.batch_size=16", "train.kimg=0.064", "eval.every_kimg=0.032", "eval.samples=16"),
    *("eval.extractor=random", "log.every_kimg=0.032"),
]


def configured(folder: Path, *overrides: str) -> RunConfig:
    return load_config("digits", [f"storage={folder}", *TINY, *overrides])


def run(config: RunConfig) -> None:
    torch.set_num_threads(1)
    train(config, LocalContext(config.run_uri))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    run(configured(folder))
    return folder / "run"


def test_a_run_continues_to_the_same_bits(trained: Path, tmp_path: Path) -> None:
    run(configured(tmp_path, "train.kimg=0.032"))
    run(configured(tmp_path))
    name = "checkpoint_000000000064"
    files = sorted(file.name for file in (trained / name).glob("*.safetensors"))
    assert files
    for file in files:
        assert (tmp_path / "run" / name / file).read_bytes() == (trained / name / file).read_bytes()


def test_its_release_samples_and_says_what_it_makes(trained: Path, tmp_path: Path) -> None:
    release = gan_dist.load(str(trained))
    assert release.sample(3).shape == (3, 4, 8, 16)
    write_images(release, str(tmp_path), 1)
    with Image.open(tmp_path / "00000000.png") as picture:
        assert (picture.size, picture.mode) == ((16, 8), "RGBA")
    shape = json.loads((next(trained.glob("best_*")) / "shape.json").read_text())
    assert (shape["resolution"], shape["channels"]) == ("16x8", 4)
    described = describe(release)
    assert [described[key] for key in ("resolution", "height", "width", "channels")] == ["16x8", 8, 16, 4]
    card = model_card(find_best(str(trained)), "folder")
    assert "images of 16x8 pixels, 4 channels (RGB and alpha)" in card
    assert "uint8, (64, 4, 8, 16)" in card
    assert read_records(str(trained))[-1]["alpha"] == "laid on white"


def test_it_is_measured_with_what_the_record_says(trained: Path) -> None:
    request = Request(str(trained), SET, ("memorisation",), 16, 1, "random", None, 0, StorageOptions())
    found = assess(request, run_here)
    assert (found.figures["resolution"], found.figures["alpha"]) == ("16x8", "laid on white")
    assert found.nearest is not None
    assert found.nearest.mode == "RGB"


@pytest.mark.parametrize(
    ("override", "what"),
    [
        ("data.resolution=640x480", "use 640x512 or 512x384"),
        ("data.channels=3", "the images of data.path=.* have 4; set data.channels=null"),
    ],
)
def test_what_cannot_be_is_refused_before_it_begins(tmp_path: Path, override: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        summarise(configured(tmp_path, override))


def test_a_dry_run_has_both_edges(tmp_path: Path) -> None:
    sizes = summarise(configured(tmp_path, "data.resolution=12x8"))
    assert (str(sizes.size), sizes.image_shape) == ("12x8", (8, 16, 4))
