"""Walks through latents, as frames and as `gan-dist sample --walk`."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageSequence
from torch import Tensor
from typer.testing import CliRunner

from gan_dist.artifacts import points
from gan_dist.artifacts.sampling import great_circle
from gan_dist.artifacts.walks import walk
from gan_dist.cli import app
from gan_dist.core.errors import DataError, GanDistError
from gan_dist.models import release
from gan_dist.models.generator import Release
from tests.support.releases import untrained


@pytest.fixture(scope="module")
def conditional(tmp_path_factory: pytest.TempPathFactory) -> Release:
    return release.load(untrained(tmp_path_factory.mktemp("runs"), "model.conditional=true"))


def frames_of(file: Path) -> Tensor:
    """Return an animation's frames of 8x8 grey pixels, uint8 (n, 1, 8, 8)."""
    with Image.open(file) as opened:
        frames = [np.asarray(frame.convert("L"))[::32, ::32] for frame in ImageSequence.Iterator(opened)]
    return torch.from_numpy(np.stack(frames))[:, None]


@pytest.mark.parametrize("frames", [1, 2, 9, 12])
def test_a_walk_passes_the_images_of_its_seeds_and_ends_before_the_first(run_uri: str, frames: int) -> None:
    generator = release.load(run_uri)
    through = points.of_seeds(generator, [3, 0, 7])
    shown = torch.stack(list(walk(generator, through, frames)))
    assert len(shown) == 3 * frames
    assert torch.equal(shown[::frames], torch.cat([generator.sample(1, seed) for seed in (3, 0, 7)]))
    ends = [generator.latents([0], seed)[0] for seed in (3, 0, 7, 3)]
    latents = torch.cat([great_circle(ends[i], ends[i + 1], frames + 1)[:-1] for i in range(3)])
    expected = generator.images(latents, None)
    assert (shown.int() - expected.int()).abs().max() <= 1  # another size of batch changes the last bits
    assert len(shown.unique(dim=0)) == len(shown)


def test_a_walk_keeps_the_class_of_an_image_until_the_next(conditional: Release) -> None:
    through = points.of_numbers(conditional, 3, seed=5)
    shown = torch.stack(list(walk(conditional, through, 4)))
    assert torch.equal(shown[::4], conditional.sample(3, seed=5))
    for number in range(3):
        path = great_circle(through.latents[number], through.latents[(number + 1) % 3], 5)[:-1]
        expected = conditional.images(path, torch.full((4,), number))
        assert (shown[4 * number : 4 * number + 4].int() - expected.int()).abs().max() <= 1
    of_one = points.of_seeds(conditional, [4, 5], label=2)
    assert torch.equal(of_one.images, torch.cat([conditional.sample(1, seed, [2]) for seed in (4, 5)]))
    assert of_one.classes is not None
    assert of_one.classes.tolist() == [2, 2]
    by_seed = points.of_seeds(conditional, [14, 5])
    assert by_seed.classes is not None
    assert by_seed.classes.tolist() == [4, 5]
    assert torch.equal(
        by_seed.images, torch.cat([conditional.sample(1, seed, [seed % 10]) for seed in (14, 5)])
    )


def test_a_walk_needs_two_images_and_frames(run_uri: str) -> None:
    generator = release.load(run_uri)
    with pytest.raises(DataError, match="through 1 image leads nowhere; name two or more"):
        walk(generator, points.of_numbers(generator, 1), 5)
    with pytest.raises(DataError, match="0 frames"):
        walk(generator, points.of_numbers(generator, 2), 0)


def test_the_verb_writes_an_animation_with_the_images_of_the_seeds(run_uri: str, tmp_path: Path) -> None:
    generator, command = release.load(run_uri), ["sample", run_uri, "--frames", "5"]
    for options, expected in (
        (["--seeds", "1-2,9"], torch.cat([generator.sample(1, seed) for seed in (1, 2, 9)])),
        (["--n", "4", "--seed", "3"], generator.sample(4, 3)),
        ([], generator.sample(8)),
    ):
        file = tmp_path / "walk.webp"
        done = CliRunner().invoke(app, [*command, *options, "--walk", str(file)], catch_exceptions=False)
        assert f"{5 * len(expected)} frames through {len(expected)} images of {run_uri} are in" in done.stdout
        frames = frames_of(file)
        assert len(frames) == 5 * len(expected)
        assert torch.equal(frames[::5], expected)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--walk", "a.webp", "--out", "b.png"], "--walk and --out do not go together"),
        (["--walk", "a.webp", "--outdir", "b"], "leave --walk or --outdir out"),
        (["--walk", "a.webp", "--single"], "leave --walk or --single out"),
        (["--walk", "a.webp", "--interpolate", "8"], "leave --walk or --interpolate out"),
        (["--walk", "a.png"], r"WebP, GIF or MP4, not \.png"),
        (["--walk", "a.gif", "--fps", "100"], "set --fps 50 or lower"),
        (["--walk", "a.mp4"], r'pip install "gan-dist\[mp4\]"'),
        (
            ["--walk", "a.webp", "--n", "1"],
            "one image leads nowhere; name two or more with --n, --seeds or",
        ),
        (["--walk", "a.webp", "--seeds", "3"], "one image leads nowhere"),
        (["--frames", "9"], "--frames 9 is a part of --walk; add --walk, or leave --frames out"),
        (["--fps", "9"], "--fps 9 is a part of --walk"),
    ],
)
def test_walks_that_cannot_be_are_refused_before_anything_is_read(
    options: list[str], told: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    with pytest.raises(GanDistError, match=told):
        CliRunner().invoke(app, ["sample", "nothing", *options], catch_exceptions=False)
