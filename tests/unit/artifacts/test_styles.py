"""Truncation, and tables of mixed styles."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from typer.testing import CliRunner

from gan_dist import models
from gan_dist.artifacts import sampling
from gan_dist.artifacts.mixing import mixing_table
from gan_dist.cli import app
from gan_dist.config import load_config
from gan_dist.core import rng
from gan_dist.core.errors import DataError, GanDistError, StorageError
from gan_dist.core.images import image_grid
from gan_dist.models import release
from gan_dist.models.generator import ImageShape, Release
from gan_dist.models.styled import StyledGenerator
from gan_dist.models.truncation import LATENTS


def styled(*overrides: str, classes: int = 0) -> Release:
    config = load_config(
        "digits",
        [
            *("name=run", "model.name=stylegan2", "model.latent_dim=5", "model.width=4", "model.max_width=4"),
            *("model.settings.w_dim=6", "model.settings.mapping_layers=2", *overrides),
            *(["model.conditional=true"] if classes else []),
        ],
    )
    shape = ImageShape(8, 1, classes)
    generator, _ = models.build_initial(config.model, shape, seed=0)
    numbers = torch.Generator().manual_seed(0)
    for parameter in generator.parameters():  # else noise counts for nothing
        parameter.data.add_(0.3 * torch.randn(parameter.shape, generator=numbers))
    return Release(generator.eval().requires_grad_(False), config, shape)


def network(of: Release) -> StyledGenerator:
    assert isinstance(of.generator, StyledGenerator)
    return of.generator


def test_without_truncation_a_release_is_as_it_was() -> None:
    whole = styled()
    assert whole.truncated(1) is whole
    images = whole.sample(9)
    assert torch.equal(whole.truncated(0.5).truncated(1).sample(9), images)
    assert torch.equal(whole.truncated(0.3).truncated(0.7).sample(9), whole.truncated(0.7).sample(9))


@pytest.mark.parametrize("classes", [0, 3])
def test_truncated_styles_are_nearer_to_the_mean(classes: int) -> None:
    whole, psi = styled(classes=classes), 0.7
    generator, labels = network(whole), torch.tensor([1, 0, 1]) if classes else None
    latents = rng.normal((LATENTS, 5), 0, "mean-w")
    means = []
    for image in range(3):
        of_class = None if labels is None else labels[image].expand(LATENTS)
        means.append(generator.map(latents, of_class).double().mean(0).float())
    given = whole.latents(range(3))
    w = generator.map(given, labels)
    expected = generator.from_w(torch.stack(means) + psi * (w - torch.stack(means)), given)
    torch.testing.assert_close(whole.truncated(psi).generator(given, labels), expected, rtol=1e-4, atol=1e-5)


def test_at_zero_there_is_one_image_for_all_seeds_and_one_for_each_class() -> None:
    images = styled().truncated(0).sample(20, seed=4)
    assert torch.equal(images, images[:1].expand_as(images))
    assert torch.equal(styled().truncated(0).sample(1, seed=5), images[:1])
    conditional = styled(classes=3).truncated(0)
    images = conditional.sample(8, labels=[2, 2, 0, 1, 0, 1, 2, 0])
    for one in range(3):
        same = images[torch.tensor([2, 2, 0, 1, 0, 1, 2, 0]) == one]
        assert torch.equal(same, same[:1].expand_as(same))
    assert not torch.equal(images[0], images[2])


def test_the_spread_of_images_grows_with_psi() -> None:
    quiet = styled("model.settings.noise=false")
    spreads = [quiet.truncated(psi).sample(16).float().std(0).mean().item() for psi in (0, 0.3, 0.7, 1)]
    assert spreads[0] == 0
    assert spreads == sorted(spreads)


def plain() -> Release:
    config = load_config("digits", ["name=run", "model.name=dcgan", "model.width=4"])
    generator, _ = models.build_initial(config.model, ImageShape(8, 1), seed=0)
    return Release(generator.eval(), config, ImageShape(8, 1))


def test_a_generator_without_styles_is_refused_by_name() -> None:
    assert plain().truncated(1).sample(1).shape == (1, 1, 8, 8)
    for call in (lambda: plain().truncated(0.7), lambda: mixing_table(plain(), [0], [1])):
        with pytest.raises(
            DataError, match=r"needs a generator with styles w, which model\.name=dcgan"
        ) as told:
            call()
        assert told.value.problems[0].keys == ("model.name",)
    with pytest.raises(DataError, match="truncation nan: a finite number"):
        styled().truncated(float("nan"))


def test_a_folder_of_single_images_has_one_truncation(tmp_path: Path) -> None:
    whole = styled()
    sampling.write_images(whole.truncated(0.5), str(tmp_path / "half"), 2)
    sampling.write_images(whole.truncated(0.5), str(tmp_path / "half"), 3)
    sampling.write_images(whole, str(tmp_path / "whole"), 2)
    with pytest.raises(StorageError, match=r"images of truncation 0\.5, not 0\.7"):
        sampling.write_images(whole.truncated(0.7), str(tmp_path / "half"), 3)
    with pytest.raises(StorageError, match=r"images of truncation 0\.5, not None"):
        sampling.write_images(whole, str(tmp_path / "half"), 3)
    with pytest.raises(StorageError, match=r"images of truncation None, not 0\.5"):
        sampling.write_images(whole.truncated(0.5), str(tmp_path / "whole"), 2)


@pytest.mark.parametrize("classes", [0, 3])
def test_a_table_has_the_coarse_styles_of_columns_and_the_fine_ones_of_rows(classes: int) -> None:
    whole, columns, rows = styled(classes=classes), [3, 1, 4], [7, 8]
    generator = network(whole)
    table = mixing_table(whole, columns, rows, first_fine=1)
    assert table.shape == (3, 4, 1, 8, 8)
    assert not table[0, 0].any()

    def alone(seed: int) -> Tensor:
        return whole.sample(1, seed, [seed % 3] if classes else None)[0]

    assert torch.equal(table[0, 1:], torch.stack([alone(seed) for seed in columns]))
    assert torch.equal(table[1:, 0], torch.stack([alone(seed) for seed in rows]))
    for i, fine in enumerate(rows):
        for j, coarse in enumerate(columns):
            label = torch.tensor([coarse % 3]) if classes else None
            latent = whole.latents([0], coarse)
            w = generator.map(latent, label).clone()
            w[:, 1:] = generator.map(whole.latents([0], fine), label)[:, 1:]
            image = generator.finished(generator.from_w(w, latent))
            apart = table[1 + i, 1 + j].float() - image[0].add(1).mul(127.5).clamp(0, 255).round()
            assert apart.abs().max() <= 1  # another number of images at once: other last bits
    with pytest.raises(DataError, match="style 4 cannot be the first fine one of 4"):
        mixing_table(whole, columns, rows, first_fine=4)


def test_the_verb_truncates_and_mixes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = styled()
    monkeypatch.setattr(release, "load", lambda *_, **__: whole)

    def picture(*options: str) -> np.ndarray:
        arguments = ["sample", "run", *options, "--out", f"{tmp_path}/a.png"]
        CliRunner().invoke(app, arguments, catch_exceptions=False)
        return np.asarray(Image.open(tmp_path / "a.png"))

    expected = image_grid(whole.truncated(0.7).sample(9))
    assert np.array_equal(picture("--n", "9", "--truncation", "0.7"), np.asarray(expected))
    table = mixing_table(whole.truncated(0.5), [0, 1], [5, 6, 7], first_fine=2)
    expected = image_grid(table.flatten(0, 1), columns=3)
    options = ["--seeds", "0,1", "--mix", "5-7", "--mix-from", "2", "--truncation", "0.5"]
    assert np.array_equal(picture(*options), np.asarray(expected))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--mix", "1"], "--mix 1 gives the rows of a table, .* add --seeds LIST"),
        (["--mix-from", "2"], "--mix-from 2 is for a table"),
        (["--mix", "1", "--seeds", "2", "--single"], "--mix 1 makes one picture, which --single"),
        (["--mix", "1", "--seeds", "2", "--walk", "a.gif"], "leave --walk or --mix out"),
        (["--mix", "1-", "--seeds", "2"], "--mix 1-: '1-' is no seed"),
    ],
)
def test_options_that_contradict_a_table_are_refused(options: list[str], told: str) -> None:
    with pytest.raises(GanDistError, match=told):
        CliRunner().invoke(app, ["sample", "run", *options], catch_exceptions=False)
