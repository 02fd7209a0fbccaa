"""Inversion of pictures, as points and as `gan-dist sample --like` and `--latents`."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor
from typer.testing import CliRunner

from gan_dist import models
from gan_dist.artifacts import inversion, points
from gan_dist.artifacts.directions import along, directions
from gan_dist.artifacts.walks import walk
from gan_dist.cli import app
from gan_dist.config import load_config
from gan_dist.core.errors import AbsentError, DataError, GanDistError, NonFiniteError
from gan_dist.core.images import image_grid, to_picture
from gan_dist.models import release
from gan_dist.models.generator import ImageShape, Release


def made(name: str = "dcgan", classes: int = 0, channels: int = 1) -> Release:
    settings = [f"model.name={name}", "model.width=4", "model.max_width=8", "model.latent_dim=3"]
    settings += ["model.settings={w_dim: 4, mapping_layers: 2}"] if name == "stylegan2" else []
    config = load_config("digits", ["name=run", *settings, f"model.conditional={str(classes > 0).lower()}"])
    shape = ImageShape(8, channels, classes)
    generator, _ = models.build_initial(config.model, shape, seed=0)
    with torch.no_grad():  # contrast, and classes that differ
        for named, parameter in generator.named_parameters():
            if named.endswith("strength"):  # noise, which nothing finds again
                continue
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)))
    return Release(generator.eval().requires_grad_(False), config, shape)


@pytest.fixture(autouse=True)
def _few_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inversion, "MOST_DRAWN", 64)


def painted(tensor: Tensor, file: Path) -> str:
    to_picture(tensor).save(file)
    return str(file)


@pytest.mark.parametrize("name", ["dcgan", "stylegan2"])
def test_an_image_of_the_generator_is_found_again(name: str) -> None:
    generator = made(name)
    picture, seen = generator.sample(1, seed=5)[0], list[int]()
    found = inversion.invert(generator, picture, steps=80, progress=seen.append)
    assert seen == list(range(81))
    assert inversion.psnr(found.images[0], picture) > 35
    few = inversion.invert(generator, picture, steps=1)
    assert inversion.psnr(few.images[0], picture) < inversion.psnr(found.images[0], picture)
    again = inversion.invert(generator, picture, steps=80)
    assert torch.equal(again.latents, found.latents)
    assert torch.equal(again.images, found.images)
    other = inversion.invert(generator, picture, steps=1, seed=1)
    assert not torch.equal(other.latents, few.latents)
    assert (found.w is None) == (name == "dcgan")


def test_a_descent_is_adams() -> None:
    target, start = torch.rand(1, 4, 4) * 2 - 1, torch.zeros(2, 16)
    matrix = torch.linspace(-1, 1, 256).view(16, 16).sin()

    def make(vectors: Tensor) -> Tensor:
        return (vectors @ matrix).tanh().view(-1, 1, 4, 4)

    ours, distances = inversion._descend(make, start, target, 0.5, 20, lambda _: None)
    # Algorithm 1 of the paper, a vector at a time; torch's own takes seconds to import.
    theirs = start.clone().double()
    for vector in theirs:
        mean, square = torch.zeros(16).double(), torch.zeros(16).double()
        for step in range(1, 21):
            given = vector.float().requires_grad_()
            (make(given[None]) - target).square().mean().backward()
            gradient = given.grad
            assert gradient is not None
            mean = 0.9 * mean + 0.1 * gradient
            square = 0.99 * square + 0.01 * gradient**2
            rate = 0.5 * 0.1 * min(1, 2 * (1 - step / 21))
            vector -= rate * (mean / (1 - 0.9**step)) / ((square / (1 - 0.99**step)).sqrt() + 1e-8)
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-4, atol=1e-5)
    expected = (make(ours) - target).square().flatten(1).mean(1)
    torch.testing.assert_close(distances, expected)


def test_the_class_is_the_one_asked_for_or_the_nearest() -> None:
    generator = made(classes=3)
    picture = generator.sample(1, 5, [2])[0]
    of_any, of_one = (inversion.invert(generator, picture, label=label, steps=50) for label in (None, 1))
    assert of_any.classes is not None
    assert of_one.classes is not None
    assert of_any.classes.tolist() == [2]
    assert of_one.classes.tolist() == [1]
    assert inversion.psnr(of_any.images[0], picture) > inversion.psnr(of_one.images[0], picture)


def test_psnr_is_ten_decibels_for_a_tenth_of_the_square() -> None:
    black = torch.zeros(1, 2, 2, dtype=torch.uint8)
    assert inversion.psnr(black, black) == math.inf
    assert inversion.psnr(black, black + 255) == 0
    assert inversion.psnr(black, black + 51) == pytest.approx(20 * math.log10(5))


def test_what_cannot_be_inverted_is_refused() -> None:
    generator = made()
    with pytest.raises(DataError, match=r"a picture of shape \(3, 8, 8\): the generator's have \(1, 8, 8\)"):
        inversion.invert(generator, torch.zeros(3, 8, 8, dtype=torch.uint8))
    picture = generator.sample(1)[0]
    with pytest.raises(DataError, match="0 steps"):
        inversion.invert(generator, picture, steps=0)
    with pytest.raises(DataError, match="without classes"):
        inversion.invert(generator, picture, label=1)
    with torch.no_grad():
        generator.generator.get_parameter("layers.0.weight").fill_(math.nan)
    with pytest.raises(NonFiniteError, match="earlier checkpoint"):
        inversion.invert(generator, picture)


def test_pictures_are_read_as_they_are_packed(tmp_path: Path) -> None:
    grey, colour = made(), made(channels=3)
    wide = np.random.default_rng(0).integers(0, 256, (16, 40, 3), np.uint8)
    Image.fromarray(wide).save(tmp_path / "wide.png")
    Image.fromarray(wide).convert("L").save(tmp_path / "grey.jpg")
    Image.fromarray(wide).convert("RGBA").save(tmp_path / "opaque.png")
    Image.new("RGBA", (8, 8), (9, 9, 9, 40)).save(tmp_path / "clear.png")
    for name, generator, channels, reduced in (
        ("wide.png", grey, 1, True),
        ("wide.png", colour, 3, False),
        ("grey.jpg", grey, 1, False),
        ("grey.jpg", colour, 3, False),
        ("opaque.png", colour, 3, False),
        ("clear.png", colour, 3, True),
    ):
        picture, left_out = inversion.read_picture(str(tmp_path / name), generator)
        assert picture.shape == (channels, 8, 8)
        assert left_out == reduced, name
    whole = inversion.read_picture(painted(colour.sample(1)[0], tmp_path / "own.png"), colour)[0]
    assert torch.equal(whole, colour.sample(1)[0])
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"text\.png: no image of a supported format"):
        inversion.read_picture(str(tmp_path / "text.png"), grey)
    with pytest.raises(AbsentError):
        inversion.read_picture(str(tmp_path / "none.png"), grey)
    with pytest.raises(DataError, match="2 channels"):
        inversion.read_picture(str(tmp_path / "wide.png"), made(channels=2))


@pytest.mark.parametrize(("name", "classes"), [("dcgan", 0), ("dcgan", 3), ("stylegan2", 0)])
def test_a_file_of_latents_gives_the_image_again_wherever_it_is_used(
    name: str, classes: int, tmp_path: Path
) -> None:
    generator, files = made(name, classes), list[str]()
    found = [inversion.invert(generator, image, steps=3) for image in generator.sample(2)]
    for number, point in enumerate(found):
        files.append(str(tmp_path / f"{number}.safetensors"))
        Path(files[-1]).write_bytes(points.to_file(point))
    read = points.of_files(generator, files)
    assert torch.equal(read.latents, torch.cat([point.latents for point in found]))
    assert torch.equal(read.images, torch.cat([point.images for point in found]))
    assert torch.equal(points.of_files(generator, files[1:]).images, found[1].images)
    frames = torch.stack(list(walk(generator, read, 4)))
    assert torch.equal(frames[::4], read.images)
    rows = along(generator, read, directions(generator, 1), 1.0, 3)
    assert torch.equal(rows[:, 0, 1], read.images)
    for column in (0, 2):  # what is around an image is of its latent, or w
        assert (rows[:, 0, column].int() - read.images.int()).abs().float().mean() < 40
    if read.w is not None:
        middle = points.images_of_w(generator, (read.w[:1] + read.w[1:]) / 2, read.latents[0])[0]
        assert (frames[2].int() - middle.int()).abs().max() <= 1


def test_files_that_hold_something_else_are_refused(tmp_path: Path) -> None:
    generator, file = made(), tmp_path / "a.safetensors"
    for tensors, told in (
        (
            {"latents": torch.zeros(1, 4)},
            r"holds \{'latents': \(1, 4\)\}, and this generator takes .*\(1, 3\)",
        ),
        ({"latents": torch.zeros(1, 3), "labels": torch.zeros(1).long()}, "this generator takes"),
        ({"latents": torch.full((1, 3), math.nan)}, "numbers that are not finite"),
        ({"latents": torch.zeros(1, 3).long()}, "or not float32"),
    ):
        save_file(tensors, file)
        with pytest.raises(DataError, match=told):
            points.of_files(generator, [str(file)])
    file.write_bytes(b"something else")
    with pytest.raises(DataError, match="holds no latents"):
        points.of_files(generator, [str(file)])
    save_file({"latents": torch.zeros(1, 3), "labels": torch.tensor([7])}, file)
    with pytest.raises(DataError, match="the classes 0 to 2"):
        points.of_files(made(classes=3), [str(file)])


def test_the_verb_writes_both_pictures_and_the_latent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    generator = made(classes=3)
    monkeypatch.setattr(release, "load", lambda *_, **__: generator)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    picture = generator.sample(1, 5, [2])[0]
    Image.new("RGB", (9, 9), (200, 10, 10)).save("red.png")
    command = ["sample", "run", "--steps", "20"]
    like = [*command, "--like", painted(picture, tmp_path / "own.png"), "--out", "a.png"]
    done = CliRunner().invoke(app, [*like, "--json"], catch_exceptions=False)
    told = json.loads(done.stdout.splitlines()[-1])
    found = inversion.invert(generator, picture, steps=20)
    assert told["out"] == "a.png"
    assert told["latents"] == "a.safetensors"
    assert told["class"] == 2
    assert told["psnr_db"] == pytest.approx(inversion.psnr(found.images[0], picture))
    shown = np.asarray(Image.open("a.png"))
    assert np.array_equal(shown, np.asarray(image_grid(torch.stack([picture, found.images[0]]), columns=2)))
    assert torch.equal(load_file("a.safetensors")["latents"], found.latents)
    done = CliRunner().invoke(app, [*command, "--like", "red.png", "--class", "1"], catch_exceptions=False)
    assert "note: the generator's images are grey, so red.png was made so" in done.stderr
    assert "the image nearest to red.png is in like.png: " in done.stdout
    assert "dB (PSNR), class 1; its latent in like.safetensors" in done.stdout
    both = ["--latents", "a.safetensors", "--latents", "like.safetensors"]
    done = CliRunner().invoke(app, ["sample", "run", *both], catch_exceptions=False)
    assert "2 images of run are in grid.png" in done.stdout
    read = points.of_files(generator, ["a.safetensors", "like.safetensors"])
    assert np.array_equal(np.asarray(Image.open("grid.png")), np.asarray(image_grid(read.images)))
    walked = ["sample", "run", *both, "--walk", "a.gif", "--frames", "2"]
    assert "4 frames through 2" in CliRunner().invoke(app, walked, catch_exceptions=False).stdout


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--like", "a.png", "--walk", "a.webp"], "--walk and --like do not go together"),
        (["--like", "a.png", "--directions", "2"], "--directions and --like"),
        (["--like", "a.png", "--n", "2"], "leave --like or --n out"),
        (["--like", "a.png", "--seeds", "2"], "leave --like or --seeds out"),
        (["--like", "a.png", "--latents", "b"], "leave --like or --latents out"),
        (["--like", "a.png", "--truncation", "0.5"], "leave --like or --truncation out"),
        (["--like", "a.png", "--single"], "leave --like or --single out"),
        (["--like", "a.png", "--out", "a.jpg"], "pictures are written as PNG"),
        (["--steps", "9"], "--steps 9 is a part of --like; add --like, or leave --steps out"),
        (["--latents", "b", "--seeds", "1"], "--latents and --seeds do not go together"),
        (["--latents", "b", "--class", "1"], "leave --latents or --class out"),
        (["--latents", "b", "--interpolate", "8"], "leave --latents or --interpolate out"),
        (["--latents", "b", "--walk", "a.webp"], "one image leads nowhere"),
    ],
)
def test_options_that_do_not_go_together_are_refused_before_anything_is_read(
    options: list[str], told: str
) -> None:
    with pytest.raises(GanDistError, match=told):
        CliRunner().invoke(app, ["sample", "nothing", *options], catch_exceptions=False)
