"""Directions of the latent space, as tensors and as `gan-dist sample --directions`."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn
from typer.testing import CliRunner

from gan_dist import models
from gan_dist.artifacts import points
from gan_dist.artifacts.directions import along, directions
from gan_dist.artifacts.points import images_of_w, w_of
from gan_dist.artifacts.sampling import great_circle
from gan_dist.artifacts.walks import walk
from gan_dist.cli import app
from gan_dist.config import load_config
from gan_dist.core import rng
from gan_dist.core.errors import DataError, GanDistError, NonFiniteError
from gan_dist.core.images import image_grid
from gan_dist.models import ARCHITECTURES, release
from gan_dist.models.generator import ImageShape, Release, to_uint8
from gan_dist.models.styled import StyledGenerator
from gan_dist.models.stylegan2_layers import StyledConv

FIRST_LAYERS = {"dcgan": "layers.0", "resnet": "start", "r3gan": "basis", "fastgan": "start"}


def made(name: str, *, conditional: bool = False) -> Release:
    settings = [f"model.name={name}", "model.width=4", "model.max_width=8", "model.latent_dim=6"]
    settings += ["model.settings={w_dim: 6, mapping_layers: 2}"] if name == "stylegan2" else []
    config = load_config("digits", ["name=run", *settings, f"model.conditional={str(conditional).lower()}"])
    shape = ImageShape(8, 1, 3 if conditional else 0)
    generator, _ = models.build_initial(config.model, shape, seed=0)
    return Release(generator.eval().requires_grad_(False), config, shape)


def with_noise(generator: Release) -> StyledGenerator:
    """Give noise, which has no strength before training, some."""
    network = generator.generator
    assert isinstance(network, StyledGenerator)
    with torch.no_grad():
        for layer in network.modules():
            if isinstance(layer, StyledConv) and layer.strength is not None:
                layer.strength.fill_(0.2)
    return network


@pytest.mark.parametrize("conditional", [False, True])
@pytest.mark.parametrize("name", FIRST_LAYERS)
def test_a_generators_latent_weight_is_what_its_first_layer_does_to_latents(
    name: str, conditional: bool
) -> None:
    generator = made(name, conditional=conditional).generator
    outputs: list[Tensor] = []
    generator.get_submodule(FIRST_LAYERS[name]).register_forward_hook(
        lambda _module, _inputs, output: outputs.append(output.flatten(1))
    )
    latents, step = (rng.normal((2, 6), 0, "test", number) for number in range(2))
    labels = torch.tensor([0, 2]) if conditional else None
    for given in (latents, latents + step):
        generator(given, labels)
    assert isinstance(generator, models.Generator)
    weight = generator.latent_weight()
    assert weight is not None
    torch.testing.assert_close(outputs[1] - outputs[0], step @ weight.T, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("conditional", [False, True])
def test_the_latent_weight_of_stylegan2_is_what_all_its_layers_do_to_w(conditional: bool) -> None:
    generator = made("stylegan2", conditional=conditional).generator
    styles: list[Tensor] = []
    for name, layer in generator.named_modules():
        if name.endswith(".affine"):
            layer.register_forward_hook(lambda _module, _inputs, output: styles.append(output))
    assert isinstance(generator, StyledGenerator)
    latents = rng.normal((2, 6), 0, "test", 0)
    w = generator.map(latents, torch.tensor([0, 2]) if conditional else None)
    step = rng.normal((6,), 0, "test", 1)
    generator.from_w(w, latents)
    generator.from_w(w + step, latents)
    half = len(styles) // 2
    changes = [after - before for before, after in zip(styles[:half], styles[half:], strict=True)]
    weight = generator.latent_weight()
    assert weight is not None
    # Layers are called in another order than their weights have; all are divided by the same root.
    found = torch.cat([change[0] for change in changes]).sort().values * math.sqrt(6)
    torch.testing.assert_close(found, (weight @ step).sort().values, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_directions_are_the_right_singular_vectors(name: str) -> None:
    generator = made(name)
    found = directions(generator, 4)
    weight: Any = generator.generator.latent_weight()  # type: ignore[operator]  # a method of this module
    _, values, vectors = np.linalg.svd(weight.double().numpy())
    assert found.vectors.shape == (4, 6)
    assert found.vectors.dtype == torch.float32
    np.testing.assert_allclose(found.singular_values, values[:4], rtol=1e-5)
    np.testing.assert_allclose(found.vectors @ found.vectors.T, np.eye(4), atol=1e-6)
    for vector, expected in zip(found.vectors.numpy(), vectors[:4], strict=True):
        assert vector[np.abs(vector).argmax()] > 0
        np.testing.assert_allclose(vector, expected * np.sign(vector @ expected), atol=1e-5)
    # Of fewer the first are the same, and a sign of all weights makes no difference.
    assert torch.equal(directions(generator, 2).vectors, found.vectors[:2])
    with torch.no_grad():
        for parameter in generator.generator.parameters():
            parameter.neg_()
    assert torch.equal(directions(generator, 4).vectors, found.vectors)


def test_rows_go_from_one_side_of_an_image_to_the_other() -> None:
    generator = made("resnet", conditional=True)
    around, found = points.of_seeds(generator, [5, 1]), directions(generator, 3)
    rows = along(generator, around, found, reach=2.5, columns=5)
    assert rows.shape == (2, 3, 5, 1, 8, 8)
    for number, seed in enumerate((5, 1)):
        assert (rows[number, :, 2] == generator.sample(1, seed, [seed % 3])[0]).all()
        for row in range(3):
            for column, a in ((0, -2.5), (1, -1.25), (4, 2.5)):
                moved = generator.latents([0], seed) + a * found.vectors[row]
                image = generator.images(moved, torch.tensor([seed % 3]))[0]
                assert (rows[number, row, column].int() - image.int()).abs().max() <= 1
    for columns in (1, 4):
        with pytest.raises(DataError, match=f"{columns} columns have none in the middle"):
            along(generator, around, found, 3.0, columns)


def test_directions_of_w_go_by_its_standard_deviations() -> None:
    generator = made("stylegan2")
    network = with_noise(generator)
    around, found = points.of_numbers(generator, 2), directions(generator, 3)
    w = network.map(rng.normal((4000, 6), 0, "test"), None)[:, 0]
    torch.testing.assert_close((w @ found.vectors.T).std(0), found.deviations, rtol=0.1, atol=0)
    rows = along(generator, around, found, reach=2.0, columns=3)
    assert (rows[:, :, 1] == generator.sample(2)[:, None]).all()
    for number in range(2):
        latents = around.latents[number : number + 1]
        for row in range(3):
            moved = network.map(latents, None) - 2 * found.deviations[row] * found.vectors[row]
            image = to_uint8(network.finished(network.from_w(moved, latents)))
            assert (rows[number, row, 0].int() - image.int()).abs().max() <= 1
    truncated = generator.truncated(0.5)
    assert torch.equal(directions(truncated, 3).deviations, found.deviations)
    near = points.of_numbers(truncated, 2)
    moved = w_of(truncated, near.latents, None) + found.deviations[0] * found.vectors[0]
    expected = images_of_w(truncated, moved, near.latents[0])[0]
    assert (along(truncated, near, found, 1.0, 3)[0, 0, 2].int() - expected.int()).abs().max() <= 1


def test_a_walk_in_w_keeps_the_noise_of_an_image_until_the_next() -> None:
    generator = made("stylegan2")
    network = with_noise(generator)
    through = points.of_numbers(generator, 2)
    frames = torch.stack(list(walk(generator, through, 3)))
    assert torch.equal(frames[::3], generator.sample(2))
    latents = great_circle(through.latents[0], through.latents[1], 4)[1:3]
    with_its_noise = network.from_w(network.map(latents, None), through.latents[:1].expand(2, -1))
    assert (frames[1:3].int() - to_uint8(network.finished(with_its_noise)).int()).abs().max() <= 1


def test_directions_that_there_are_not_are_refused() -> None:
    generator = made("dcgan")
    for count in (0, 7):
        with pytest.raises(DataError, match=rf"^{count} directions: .* model\.name=dcgan takes? .*6 numbers"):
            directions(generator, count)
    without = replace(generator, generator=nn.Linear(6, 6))
    with pytest.raises(DataError, match=r"model\.name=dcgan does not say which.*latent_weight"):
        directions(without, 1)
    with torch.no_grad():
        generator.generator.get_parameter("layers.0.weight")[0, 0, 0, 0] = math.nan
    with pytest.raises(NonFiniteError, match="earlier checkpoint"):
        directions(generator, 1)


def test_the_verb_writes_a_picture_and_the_directions(
    run_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    generator, command = release.load(run_uri), ["sample", run_uri, "--directions", "2"]
    for options, of_points, reach in (
        ([], points.of_numbers(generator, 1), 3.0),
        (["--seeds", "4,5", "--reach", "1"], points.of_seeds(generator, [4, 5]), 1.0),
    ):
        done = CliRunner().invoke(app, [*command, *options], catch_exceptions=False)
        assert (
            f"2 directions around {len(of_points)} images of {run_uri} are in directions.png" in done.stdout
        )
        found = directions(generator, 2)
        rows = along(generator, of_points, found, reach)
        shown = np.asarray(Image.open("directions.png"))
        assert np.array_equal(shown, np.asarray(image_grid(rows.flatten(0, 2), columns=7)))
        written = load_file("directions.safetensors")
        assert torch.equal(written["directions"], found.vectors)
        assert torch.equal(written["singular_values"], found.singular_values)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--directions", "2", "--walk", "a.webp"], "leave --walk or --directions out"),
        (["--directions", "2", "--single"], "--directions and --single do not go together"),
        (["--directions", "2", "--interpolate", "8"], "leave --directions or --interpolate out"),
        (["--directions", "2", "--out", "a.jpg"], "pictures are written as PNG"),
        (["--reach", "2"], r"--reach 2\.0 is a part of --directions; add --directions, or leave --reach out"),
        (["--directions", "2", "--reach", "nan"], "--reach nan is no length"),
        (["--directions", "2", "--reach", "-1"], "--reach -1.0 is no length"),
    ],
)
def test_directions_that_contradict_are_refused_before_anything_is_read(
    options: list[str], told: str
) -> None:
    with pytest.raises(GanDistError, match=told):
        CliRunner().invoke(app, ["sample", "nothing", *options], catch_exceptions=False)
