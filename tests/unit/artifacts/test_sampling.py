"""Rows that interpolate, single images, and the options of `gan-dist sample` that choose between them."""

from __future__ import annotations

import json
import math
import time
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
from PIL import Image
from torch import Tensor, nn
from typer.testing import CliRunner

from gan_dist.artifacts import sampling
from gan_dist.artifacts.sampling import file_name, great_circle, interpolate, write_images
from gan_dist.cli import app
from gan_dist.config import load_config
from gan_dist.core import rng, storage
from gan_dist.core.errors import DataError, GanDistError, NonFiniteError, StorageError
from gan_dist.core.images import image_grid
from gan_dist.models import release
from gan_dist.models.generator import BLOCK, ImageShape, Release

Array = npt.NDArray[np.float64]


class Painter(nn.Module):
    """Images of their latents' first numbers and of their class; it notes how many it was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.3))
        self.asked: list[int] = []

    def forward(self, latents: Tensor, labels: Tensor | None) -> Tensor:
        self.asked.append(len(latents))
        colours = (latents[:, :3] * self.scale).clamp(-1, 1)
        images = colours[:, :, None, None].expand(-1, 3, 4, 4).clone()
        if labels is not None:
            images[:, :, 0, 0] = labels[:, None] / 5 - 1
        return images


def painter(classes: int = 0, names: tuple[str, ...] = ()) -> Release:
    config = load_config("digits", ["name=run", "model.latent_dim=5"])
    return Release(Painter().requires_grad_(False), config, ImageShape(4, 3, classes, names))


def network(generator: Release) -> Painter:
    assert isinstance(generator.generator, Painter)
    return generator.generator


def pixels(folder: Path) -> Tensor:
    """Return a folder's PNGs in the order of their names, uint8 (n, C, R, R)."""
    arrays = [np.asarray(Image.open(file)) for file in sorted(folder.glob("*.png"))]
    return torch.stack([torch.tensor(array.reshape(*array.shape[:2], -1)).movedim(-1, 0) for array in arrays])


# Images by their number


def test_an_image_has_the_same_bits_however_many_are_asked_for(run_uri: str) -> None:
    generator = release.load(run_uri)
    made = generator.sample(100, seed=3)
    for n in (1, 2, 7, 8, 9, 33):
        assert torch.equal(generator.sample(n, seed=3), made[:n])
    for first in (0, 5, 8, 99):
        assert torch.equal(torch.cat(list(generator.stream(100, 3, first=first))), made[first:])
    assert not torch.equal(generator.sample(8, seed=4), made[:8])


def test_the_generator_is_always_asked_for_as_many() -> None:
    generator = painter(classes=3)
    made = generator.sample(19, labels=[2] * 19)
    assert network(generator).asked == [BLOCK] * 3
    assert made.shape == (19, 3, 4, 4)
    assert torch.equal(made[:2], generator.sample(2, labels=[2, 2]))


def test_labels_are_looked_at_before_an_image_is_made() -> None:
    generator = painter(classes=3)
    with pytest.raises(DataError, match="class 3: the generator has the classes 0 to 2; name one"):
        generator.stream(2, labels=[0, 3])
    with pytest.raises(DataError, match="3 classes for 2 images; name 2"):
        generator.stream(2, labels=[0, 1, 2])
    with pytest.raises(DataError, match="trained without classes"):
        painter().stream(2, labels=[0, 1])


@pytest.mark.parametrize("n", [0, -3])
@pytest.mark.parametrize("classes", [0, 3])
def test_no_images_are_refused_however_they_are_asked_for(n: int, classes: int) -> None:
    generator = painter(classes)
    for ask in (generator.sample, generator.stream, generator.classes):
        with pytest.raises(DataError, match=f"^{n} images: ask for 1 or more"):
            ask(n)
    with pytest.raises(DataError, match=f"^{n} images: ask for 1 or more"):
        interpolate(generator, n, 4)


def test_an_image_that_is_not_finite_is_refused() -> None:
    generator = painter()
    network(generator).scale.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="earlier checkpoint"):
        generator.sample(1)


# The great circle


def white(a: Array, b: Array, steps: int) -> Array:
    """White's formula as he writes it, of directions."""
    angle = np.arccos(np.clip(a @ b, -1, 1))
    t = np.linspace(0, 1, steps)[:, None]
    found: Array = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    return found


def directions(walk: Tensor) -> Array:
    values = walk.double()
    found: Array = (values / values.norm(dim=1, keepdim=True)).numpy()
    return found


@pytest.mark.parametrize("size", [2, 3, 100, 512])
def test_a_walk_is_whites_with_equal_angles_and_even_lengths(size: int) -> None:
    start, end = (rng.normal((size,), 0, "test", number) for number in range(2))
    walk = great_circle(start, end, 9)
    assert walk.dtype == torch.float32
    assert torch.equal(walk[0], start)
    assert torch.equal(walk[-1], end)
    a, b = directions(torch.stack([start, end]))
    assert np.abs(directions(walk) - white(a, b, 9)).max() < 1e-6
    lengths = torch.linspace(float(start.norm()), float(end.norm()), 9)
    torch.testing.assert_close(walk.norm(dim=1), lengths, rtol=1e-5, atol=0)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("apart", [0.0, 1e-7, 1e-4])
def test_nearly_parallel_and_nearly_opposite_latents_have_a_walk_too(sign: int, apart: float) -> None:
    start = rng.normal((64,), 0, "test", 0)
    end = sign * 1.5 * start + apart * rng.normal((64,), 0, "test", 1)
    walk = great_circle(start, end, 17)
    assert torch.equal(walk[0], start)
    assert torch.equal(walk[-1], end)
    found = directions(walk)
    whole = math.acos(np.clip(found[0] @ found[-1], -1, 1))
    # An arc of equal chords on a sphere: twice the sine of half of each step's angle.
    chords = np.linalg.norm(np.diff(found, axis=0), axis=1)
    assert np.abs(chords - 2 * math.sin(whole / 32)).max() < 1e-6
    lengths = torch.linspace(float(start.norm()), float(end.norm()), 17)
    torch.testing.assert_close(walk.norm(dim=1), lengths, rtol=1e-5, atol=0)


def test_latents_of_one_number_have_a_walk() -> None:
    walk = great_circle(torch.tensor([1.0]), torch.tensor([-2.0]), 5)
    assert walk.isfinite().all()
    assert (walk[0].item(), walk[-1].item()) == (1.0, -2.0)


def test_a_row_goes_from_an_image_to_the_next_one_and_keeps_its_class() -> None:
    generator = painter(classes=3)
    rows = interpolate(generator, rows=4, steps=6, seed=2)
    assert rows.shape == (4, 6, 3, 4, 4)
    shown = generator.sample(5, seed=2)
    assert torch.equal(rows[:, 0], shown[:4])
    assert torch.equal(rows[:, -1, :, 1:], shown[1:, :, 1:])
    corners = rows[:, :, 0, 0, 0]
    assert (corners == corners[:, :1]).all()
    assert corners[0, 0] == corners[3, 0] != corners[1, 0]
    assert (interpolate(generator, 2, 3, labels=[1, 1])[:, :, :, 0, 0] == corners[1, 0]).all()
    # It is the latents between that are shown, not a blend of the images.
    start, end = generator.latents([0, 1], 2)
    middle = great_circle(start, end, 6)[2:3]
    assert torch.equal(rows[0, 2], generator.images(middle, torch.tensor([0]))[0])


# Single images


def test_single_images_are_those_of_sample_in_files_that_sort(run_uri: str, tmp_path: Path) -> None:
    generator, folder, seen = release.load(run_uri), tmp_path / "images", list[int]()
    write_images(generator, str(folder), 101, seed=3, progress=seen.append)
    assert seen == list(range(102))
    assert torch.equal(pixels(folder), generator.sample(101, seed=3))
    assert Image.open(folder / file_name(0)).mode == "L"
    assert {file.name for file in folder.iterdir()} == {*map(file_name, range(101)), "sample.json"}
    names = [file_name(number) for number in (0, 9, 10, 99_999, 100_000)]
    assert names == sorted(names)


def test_classes_and_colours_arrive_in_files(tmp_path: Path) -> None:
    generator = painter(classes=3)
    write_images(generator, str(tmp_path / "all"), 20)
    write_images(generator, str(tmp_path / "one"), 20, label=2)
    assert torch.equal(pixels(tmp_path / "all"), generator.sample(20))
    assert torch.equal(pixels(tmp_path / "one"), generator.sample(20, labels=[2] * 20))


def test_what_was_interrupted_goes_on_from_the_first_image_that_is_missing(tmp_path: Path) -> None:
    generator = painter()

    def interrupt(count: int) -> None:
        if count == 50:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_images(generator, str(tmp_path), 200, progress=interrupt)
    assert 50 <= len(list(tmp_path.glob("*.png"))) <= 50 + 2 * sampling.WRITERS
    network(generator).asked.clear()
    seen: list[int] = []
    write_images(generator, str(tmp_path), 200, progress=seen.append)
    assert seen[0] >= 50
    assert sum(network(generator).asked) <= 200 - seen[0] + BLOCK
    assert torch.equal(pixels(tmp_path), generator.sample(200))
    write_images(generator, str(tmp_path), 200, progress=seen.append)
    assert seen[-1] == 200
    (tmp_path / file_name(7)).unlink()
    write_images(generator, str(tmp_path), 200)
    assert torch.equal(pixels(tmp_path), generator.sample(200))


def test_after_a_write_that_failed_what_was_not_begun_is_given_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[str] = []

    def refused(uri: str, _: bytes) -> None:
        begun.append(uri)
        if uri.endswith(file_name(0)):
            raise StorageError("the store refuses it")
        if not uri.endswith(sampling.RECORD):
            time.sleep(1)

    monkeypatch.setattr(storage, "write_bytes", refused)
    with pytest.raises(StorageError, match="the store refuses it"):
        write_images(painter(), str(tmp_path), 500)
    assert len(begun) < 2 * sampling.WRITERS


def test_more_images_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    generator = painter()
    write_images(generator, str(tmp_path), 20)
    network(generator).asked.clear()
    write_images(generator, str(tmp_path), 50)
    assert sum(network(generator).asked) <= 30 + 2 * BLOCK
    assert torch.equal(pixels(tmp_path), generator.sample(50))
    # Now that there are 50, they are not 20 any more.
    with pytest.raises(StorageError, match="of n 50, not 20"):
        write_images(generator, str(tmp_path), 20)


def test_images_are_written_while_others_are_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator, write, behind = painter(), storage.write_bytes, list[int]()

    def noting(uri: str, content: bytes) -> None:
        write(uri, content)
        behind.append(sum(network(generator).asked) - len(behind))

    monkeypatch.setattr(storage, "write_bytes", noting)
    write_images(generator, str(tmp_path), 500)
    assert max(behind) <= 3 * sampling.WRITERS + 2 * BLOCK


def test_a_folder_of_other_images_is_refused(tmp_path: Path) -> None:
    generator = painter(classes=3)
    write_images(generator, str(tmp_path / "there"), 4)
    before = pixels(tmp_path / "there")
    other = painter(classes=3)
    network(other).scale.fill_(0.4)
    for n, seed, label, told in (
        (3, 0, None, "n 4, not 3"),
        (4, 1, None, "seed 0, not 1"),
        (4, 0, 1, "label None, not 1"),
    ):
        with pytest.raises(StorageError, match=f"of {told}; give --out another folder, or empty this one"):
            write_images(generator, str(tmp_path / "there"), n, seed, label)
    with pytest.raises(StorageError, match="of generator_sha256 "):
        write_images(other, str(tmp_path / "there"), 4)
    assert torch.equal(pixels(tmp_path / "there"), before)
    (tmp_path / "there" / "sample.json").write_text("[")
    with pytest.raises(StorageError, match=r"holds a damaged sample\.json"):
        write_images(generator, str(tmp_path / "there"), 4)
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "cat.png").touch()
    with pytest.raises(StorageError, match=r"holds cat\.png, and no sample\.json"):
        write_images(generator, str(tmp_path / "foreign"), 4)
    with pytest.raises(DataError, match="the classes 0 to 2"):
        write_images(generator, str(tmp_path / "none"), 4, label=3)
    assert not (tmp_path / "none").exists()


def test_single_images_go_into_a_bucket(bucket: str, backend: str, run_uri: str, tmp_path: Path) -> None:
    arguments = ["sample", run_uri, "--n", "20", "--single", "--backend", backend]
    for _ in range(2):
        done = CliRunner().invoke(app, [*arguments, "--out", f"{bucket}/images/"], catch_exceptions=False)
        assert f"20 images of {run_uri} are in {bucket}/images/" in done.stdout
    storage.copy_tree(f"{bucket}/images", str(tmp_path))
    assert torch.equal(pixels(tmp_path), release.load(run_uri).sample(20))


# The verb


def test_each_way_has_a_place_of_its_own(
    run_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    generator = release.load(run_uri)
    shown = {
        "grid.png": image_grid(generator.sample(12, 5)),
        "interpolation.png": image_grid(interpolate(generator, 3, 4, 5).flatten(0, 1), columns=4),
    }
    for options, place in (
        ([], "grid.png"),
        (["--interpolate", "4"], "interpolation.png"),
        (["--single"], "images"),
    ):
        arguments = ["sample", run_uri, "--n", "12", "--seed", "5", *options, "--json"]
        done = CliRunner().invoke(app, arguments, catch_exceptions=False)
        assert json.loads(done.stdout.splitlines()[-1]) == {"out": place}
        if place in shown:
            assert np.array_equal(np.asarray(Image.open(place)), np.asarray(shown[place]))
    assert torch.equal(pixels(Path("images")), generator.sample(12, 5))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--single", "--interpolate", "8"], "--single writes a file an image, --interpolate 8 one picture"),
        (["--single", "--out", "a.png"], "--out a.png: --single writes into a folder"),
        (["--out", "there"], "--out there is a folder; add --single"),
        (["--out", "s3://bucket/there/"], "--out s3://bucket/there/ is a folder; add --single"),
        (["--out", "a.jpg", "--interpolate", "8"], "pictures are written as PNG"),
        (["--n", "60", "--interpolate", "8"], "--n 60 is not a whole number of rows .*; set --n 56 or 64"),
        (["--n", "6", "--interpolate", "8"], "--n 6 is not a whole number of rows .*; set --n 8"),
        (["--label", "3"], "class 3: the generator was trained without classes"),
        (["--outdir", "there", "--out", "a.png"], "--outdir and --out both say"),
        (["--seeds", "3-1"], "--seeds 3-1: '3-1' is no seed and no range of seeds"),
        (["--seeds", "1,,2"], "'' is no seed"),
        (["--seeds", "4294967296"], "'4294967296' is no seed"),
        (["--seeds", "0-4294967295"], "names more than 100,000; use --n"),
        (["--seeds", "1,2", "--n", "2"], "--seeds makes one image a seed, --n several"),
        (["--seeds", "1,2", "--interpolate", "2"], "leave --interpolate or --seeds out"),
    ],
)
def test_options_that_contradict_one_another_are_refused_with_the_remedy(
    options: list[str], told: str, run_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("there").mkdir()
    with pytest.raises(GanDistError, match=told):
        CliRunner().invoke(app, ["sample", run_uri, *options], catch_exceptions=False)
    assert [file.name for file in tmp_path.rglob("*")] == ["there"]


def test_a_command_for_no_images_is_refused(run_uri: str, tmp_path: Path) -> None:
    done = CliRunner().invoke(app, ["sample", run_uri, "--n", "0", "--out", f"{tmp_path}/a.png"])
    assert done.exit_code == 2
    assert "Invalid value for '--n'" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_a_class_that_the_generator_has_not_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(release, "load", lambda *_, **__: painter(classes=3))
    with pytest.raises(DataError, match="class 3: the generator has the classes 0 to 2; name one"):
        CliRunner().invoke(app, ["sample", "run", "--label", "3"], catch_exceptions=False)
    monkeypatch.setattr(release, "load", lambda *_, **__: painter(2, ("cat", "dog")))
    with pytest.raises(DataError, match=r"class dig: .* named cat, dog; the nearest is dog"):
        CliRunner().invoke(app, ["sample", "run", "--label", "dig"], catch_exceptions=False)


def test_a_class_is_named_by_its_name_or_its_number(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = painter(3, ("7", "cat", "dog"))
    numbers = generator.classes(4, ["dog", 1, "1", "7"])
    assert numbers is not None
    assert numbers.tolist() == [2, 1, 1, 0]
    monkeypatch.setattr(release, "load", lambda *_, **__: generator)
    for number, option in enumerate([["--label", "cat"], ["--class", "cat"], ["--label", "1"]]):
        CliRunner().invoke(app, ["sample", "run", *option, "--single", "--out", f"{tmp_path}/{number}"])
        assert torch.equal(pixels(tmp_path / str(number)), generator.sample(64, labels=[1] * 64))


def test_a_shape_written_before_classes_had_names_is_read() -> None:
    assert ImageShape.from_json(b'{"channels": 1, "classes": 2, "resolution": 8}') == ImageShape(8, 1, 2)


# One image a seed


def test_seeds_give_the_first_image_of_each(run_uri: str, tmp_path: Path) -> None:
    generator = release.load(run_uri)
    expected = torch.cat([generator.sample(1, seed) for seed in (0, 1, 2, 42)])
    command = ["sample", run_uri, "--seeds", "0-2,42"]
    assert CliRunner().invoke(app, [*command, "--out", f"{tmp_path}/grid.png"]).exit_code == 0
    shown = np.asarray(Image.open(tmp_path / "grid.png"))
    assert np.array_equal(shown, np.asarray(image_grid(expected)))
    done = CliRunner().invoke(app, [*command, "--outdir", f"{tmp_path}/images", "--json"])
    assert json.loads(done.stdout.splitlines()[-1])["out"].endswith("images")
    names = [f"{seed:010d}.png" for seed in (0, 1, 2, 42)]
    assert sorted(file.name for file in (tmp_path / "images").glob("*.png")) == names
    assert torch.equal(pixels(tmp_path / "images"), expected)


def test_other_seeds_are_added_to_those_that_are_there(tmp_path: Path) -> None:
    generator, seen = painter(classes=3), list[int]()
    sampling.write_images_of_seeds(generator, str(tmp_path), [5, 3])
    network(generator).asked.clear()
    sampling.write_images_of_seeds(generator, str(tmp_path), [3, 9, 9], progress=seen.append)
    assert network(generator).asked == [BLOCK]
    assert seen[-1] == 3
    expected = torch.cat([generator.sample(1, seed, [seed % 3]) for seed in (3, 5, 9)])
    assert torch.equal(pixels(tmp_path), expected)
    with pytest.raises(StorageError, match="images of n None, not 20"):
        write_images(generator, str(tmp_path), 20)


def test_an_interrupt_says_how_to_go_on(
    run_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Release, "stream", interrupted)
    done = CliRunner().invoke(app, ["sample", run_uri, "--single", "--out", str(tmp_path / "images")])
    assert done.exit_code == 130
    assert "the same command again continues" in done.stderr
