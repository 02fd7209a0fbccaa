from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor
from torch.nn.functional import grid_sample

from gan_dist.config import DataConfig
from gan_dist.config.augment import AugmentChoice
from gan_dist.training import augment
from gan_dist.training.augment.ada import adjusted
from gan_dist.training.augment.base import Augmentation
from gan_dist.training.augment.diffaugment import COLUMNS as DIFFAUGMENT_COLUMNS
from gan_dist.training.augment.grid_sample import look_up

Array = npt.NDArray[Any]
EVERYTHING: AugmentChoice = {
    "ada": ("flip", "turn", "shift", "geom", "color", "filter", "noise", "cutout"),
}
CHOICES: dict[str, AugmentChoice] = {
    "none": "none",
    "diffaugment": "diffaugment",
    "some of diffaugment": {"diffaugment": ("translation", "cutout")},
    "ada": "ada",
    "all of ada": EVERYTHING,
}
CHANGING = [name for name in CHOICES if name != "none"]

# Columns of ADA's draws: each transform's gate, then its values.
GATES = {
    "flip": 0,
    "quarters": 2,
    "shift": 4,
    "scale": 7,
    "before": 9,
    "stretch": 11,
    "after": 13,
    "drift": 15,
    "brightness": 18,
    "contrast": 20,
    "luma_flip": 22,
    "hue": 24,
    "saturation": 26,
}
SHAPES = [(5, 1, 8, 8), (6, 3, 8, 8), (4, 3, 9, 12), (3, 4, 7, 5), (2, 3, 16, 16)]


def build(choice: AugmentChoice) -> Augmentation:
    return augment.build(DataConfig(path="x", augment=choice))


ada, ADA_COLUMNS = build("ada"), 28


def diffaugment(images: Tensor, draws: Tensor) -> Tensor:
    return build("diffaugment")(images, draws, 0.0)


def sample(shape: tuple[int, ...], columns: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(shape, generator=generator) * 2 - 1
    return images, torch.rand(shape[0], columns, generator=generator)


def built(name: str, shape: tuple[int, ...]) -> tuple[int, Augmentation]:
    """An augmentation, and the numbers that it wants for each image (C, H, W)."""
    augmentation = build(CHOICES[name])
    channels, height, width = shape
    return augmentation.columns((channels, height, width)), augmentation


def only(gates: dict[str, tuple[float, ...]], count: int = 1) -> Tensor:
    """ADA's draws that at p = 0.5 apply the named transforms, with these values, and no other."""
    draws = torch.full((count, ADA_COLUMNS), 0.75)
    for name, values in gates.items():
        draws[:, GATES[name]] = 0.25
        draws[:, GATES[name] + 1 : GATES[name] + 1 + len(values)] = torch.tensor(values)
    return draws


def assert_relative(result: Tensor, expected: Array, tolerance: float) -> None:
    error = np.abs(result.double().numpy() - expected).max() / max(np.abs(expected).max(), 1.0)
    assert error < tolerance


# DiffAugment


def diffaugment_one(image: Array, u: Array) -> Array:
    """A slow DiffAugment of one image, float64 (C, H, W)."""
    channels, height, width = image.shape
    colours = image[: 3 if channels == 4 else channels] + (u[0] - 0.5)
    for y in range(height):
        for x in range(width):
            mean = sum(colours[:, y, x]) / len(colours)
            colours[:, y, x] = [mean + 2 * u[1] * (value - mean) for value in colours[:, y, x]]
    mean = colours.sum() / colours.size
    image = np.concatenate([mean + (0.5 + u[2]) * (colours - mean), image[len(colours) :]])
    steps_x, steps_y = width // 8, height // 8
    shift_x = range(-steps_x, steps_x + 1)[int(u[3] * (2 * steps_x + 1))]
    shift_y = range(-steps_y, steps_y + 1)[int(u[4] * (2 * steps_y + 1))]
    result = np.zeros_like(image)
    for y in range(height):
        for x in range(width):
            if 0 <= y + shift_y < height and 0 <= x + shift_x < width:
                result[:, y + shift_y, x + shift_x] = image[:, y, x]
    half_x, half_y = width // 2, height // 2
    left = int(u[5] * (width + 1 - half_x % 2)) - half_x // 2
    top = int(u[6] * (height + 1 - half_y % 2)) - half_y // 2
    result[:, max(top, 0) : max(top + half_y, 0), max(left, 0) : max(left + half_x, 0)] = 0
    return result


@pytest.mark.parametrize("shape", SHAPES)
def test_diffaugment_is_the_slow_reference(shape: tuple[int, ...]) -> None:
    images, draws = sample(shape, DIFFAUGMENT_COLUMNS)
    rows = zip(images.double().numpy(), draws.double().numpy(), strict=True)
    expected = np.stack([diffaugment_one(image, row) for image, row in rows])
    assert_relative(diffaugment(images, draws), expected, 1e-6)
    assert_relative(diffaugment(images.double(), draws), expected, 1e-14)


def neutral_diffaugment(**values: float) -> Tensor:
    """DiffAugment's draws that change nothing of a 16 x 16 image but cut out its first 4 x 4 pixels."""
    names = ["brightness", "saturation", "contrast", "shift_x", "shift_y", "cut_x", "cut_y"]
    neutral = dict(zip(names, [0.5, 0.5, 0.5, 0.5, 0.5, 0.0, 0.0], strict=True))
    return torch.tensor([list({**neutral, **values}.values())])


def test_neutral_draws_leave_all_but_the_cutout() -> None:
    images, _ = sample((1, 3, 16, 16), 1)
    expected = images.clone()
    expected[:, :, :4, :4] = 0
    torch.testing.assert_close(diffaugment(images, neutral_diffaugment()), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(("draw", "shift"), [(0.0, -2), (0.25, -1), (0.5, 0), (0.7, 1), (1 - 2**-24, 2)])
def test_translation_is_a_shift_with_zeros(draw: float, shift: int) -> None:
    images, _ = sample((1, 3, 16, 16), 1)
    for axis, name in ((3, "shift_x"), (2, "shift_y")):
        expected = torch.roll(images, shift, axis)
        wrapped = [slice(None)] * 4
        wrapped[axis] = slice(0, shift) if shift >= 0 else slice(16 + shift, 16)
        expected[tuple(wrapped)] = 0
        expected[:, :, :4, :4] = 0
        result = diffaugment(images, neutral_diffaugment(**{name: draw}))
        torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


def test_cutout_is_half_the_size_with_its_centre_anywhere() -> None:
    # 16 + 1 places on each axis; 8 rows, less what sticks out: 4, 5, 6, 7, 8 (nine times), 7, 6, 5, 4.
    images = torch.ones(17 * 17, 1, 16, 16)
    draws = neutral_diffaugment().repeat(17 * 17, 1)
    draws[:, 5] = ((torch.arange(17 * 17) % 17) + 0.5) / 17
    draws[:, 6] = ((torch.arange(17 * 17) // 17) + 0.5) / 17
    areas = (diffaugment(images, draws) == 0).sum((1, 2, 3)).view(17, 17)
    side = torch.tensor([4, 5, 6, 7] + [8] * 9 + [7, 6, 5, 4])
    assert torch.equal(areas, side[:, None] * side)


def test_mean_area_of_cutouts_is_that_of_uniform_centres() -> None:
    count = 20_000
    draws = torch.rand(count, DIFFAUGMENT_COLUMNS, generator=torch.Generator().manual_seed(1))
    draws[:, :5] = 0.5
    areas = (diffaugment(torch.ones(count, 1, 16, 16), draws) == 0).sum((1, 2, 3)).double()
    side = np.array([4, 5, 6, 7] + [8] * 9 + [7, 6, 5, 4])
    deviation = math.sqrt((side**2).mean() ** 2 - side.mean() ** 4)
    assert abs(areas.mean().item() - side.mean() ** 2) < 5 * deviation / math.sqrt(count)


@pytest.mark.parametrize("channels", [1, 3])
def test_diffaugment_is_twice_differentiable(channels: int) -> None:
    images, draws = sample((2, channels, 8, 8), DIFFAUGMENT_COLUMNS)
    images = images.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: diffaugment(x, draws), (images,))
    # Cubed, since the second derivative of a linear map alone is zero.
    assert torch.autograd.gradgradcheck(lambda x: diffaugment(x, draws) ** 3, (images,))


# Geometry of ADA


def undo(name: str, x: float, y: float, values: Array, size: tuple[int, int]) -> tuple[float, float]:
    """Where a point of a transform's result comes from; pixels from the centre, y downwards."""
    height, width = size
    normal = NormalDist()
    match name:
        case "flip":
            return (-x if values[0] >= 0.5 else x), y
        case "quarters":
            for _ in range(int(4 * values[0])):
                x, y = -y, x
            return x, y
        case "shift":
            return (
                x - float(np.round((2 * values[0] - 1) * width / 8)),
                y - float(np.round((2 * values[1] - 1) * height / 8)),
            )
        case "scale":
            factor = 2 ** (0.2 * normal.inv_cdf(values[0]))
            return x / factor, y / factor
        case "before" | "after":
            turned = complex(x, y) * np.exp(1j * math.pi * (2 * values[0] - 1))
            return turned.real, turned.imag
        case "stretch":
            factor = 2 ** (0.2 * normal.inv_cdf(values[0]))
            return x / factor, y * factor
        case _:
            return (
                x - normal.inv_cdf(values[0]) * width / 8,
                y - normal.inv_cdf(values[1]) * height / 8,
            )


def mirrored(index: int, size: int) -> int:
    while not 0 <= index < size:
        index = -index if index < 0 else 2 * (size - 1) - index
    return index


def bilinear(image: Array, x: float, y: float) -> Array:
    height, width = image.shape[1:]
    column, row = math.floor(x), math.floor(y)
    result = np.zeros(len(image))
    for i, weight_y in ((row, 1 - (y - row)), (row + 1, y - row)):
        for j, weight_x in ((column, 1 - (x - column)), (column + 1, x - column)):
            result += weight_y * weight_x * image[:, mirrored(i, height), mirrored(j, width)]
    return result


def recolour_pixel(name: str, pixel: Array, u: float) -> Array:
    if len(pixel) == 4:
        return np.append(recolour_pixel(name, pixel[:3], u), pixel[3])
    normal = NormalDist().inv_cdf(u)
    mean = float(pixel.mean())
    match name:
        case "brightness":
            return pixel + 0.2 * normal
        case "contrast":
            return 2 ** (0.5 * normal) * pixel
        case "luma_flip":
            return pixel - 2 * mean if u >= 0.5 else pixel
        case "hue":
            if len(pixel) != 3:
                return pixel
            angle, axis = math.pi * (2 * u - 1), np.full(3, 3**-0.5)
            chroma = pixel - mean
            return mean + chroma * math.cos(angle) + np.cross(axis, chroma) * math.sin(angle)
        case _:
            return mean + (pixel - mean) * 2**normal


def ada_one(image: Array, u: Array, p: float) -> Array:
    """A slow ADA of one image, float64 (C, H, W)."""
    height, width = image.shape[1:]
    names = list(GATES)
    chances = {name: 1 - math.sqrt(1 - p) if name in ("before", "after") else p for name in names}
    active = [name for name in names if u[GATES[name]] < chances[name]]
    result = np.empty_like(image)
    for row in range(height):
        for column in range(width):
            x, y = column - (width - 1) / 2, row - (height - 1) / 2
            for name in reversed(active):
                if GATES[name] < GATES["brightness"]:
                    x, y = undo(name, x, y, u[GATES[name] + 1 :], (height, width))
            pixel = bilinear(image, x + (width - 1) / 2, y + (height - 1) / 2)
            for name in active:
                if GATES[name] >= GATES["brightness"]:
                    pixel = recolour_pixel(name, pixel, u[GATES[name] + 1])
            result[:, row, column] = pixel
    return result


@pytest.mark.parametrize("p", [0.3, 0.7, 1.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_ada_is_the_slow_reference(shape: tuple[int, ...], p: float) -> None:
    images, draws = sample(shape, ADA_COLUMNS, seed=round(10 * p))
    rows = zip(images.double().numpy(), draws.double().numpy(), strict=True)
    expected = np.stack([ada_one(image, row, p) for image, row in rows])
    assert_relative(ada(images, draws, p), expected, 5e-6)
    assert_relative(ada(images.double(), draws, torch.tensor(p, dtype=torch.float64)), expected, 1e-13)


@pytest.mark.parametrize("name", GATES)
def test_each_transform_alone_is_the_slow_reference(name: str) -> None:
    images, draws = sample((6, 3, 8, 8), ADA_COLUMNS)
    alone = torch.full_like(draws, 0.75)
    alone[:, GATES[name]] = 0.25
    for value in range(2 if name in ("shift", "drift") else 1):
        alone[:, GATES[name] + 1 + value] = draws[:, value]
    rows = zip(images.double().numpy(), alone.double().numpy(), strict=True)
    expected = np.stack([ada_one(image, row, 0.5) for image, row in rows])
    result = ada(images, alone, 0.5)
    assert_relative(result, expected, 5e-6)
    assert not torch.equal(result, images)


@pytest.mark.parametrize("size", [8, 15, 32])
def test_quarter_turns_and_flips_are_those_of_torch(size: int) -> None:
    images, _ = sample((1, 3, size, size), 1)
    for turns in range(4):
        result = ada(images, only({"quarters": ((turns + 0.5) / 4,)}), 0.5)
        torch.testing.assert_close(result, torch.rot90(images, turns, (2, 3)), rtol=0, atol=1e-5)
    result = ada(images, only({"flip": (0.5,)}), 0.5)
    torch.testing.assert_close(result, images.flip(3), rtol=0, atol=1e-5)
    assert torch.equal(ada(images, only({"flip": (0.49,)}), 0.5), images)


@pytest.mark.parametrize(("x", "y"), [(2, 0), (0, -1), (-2, 2), (1, -2)])
def test_whole_translations_are_shifts_with_reflection(x: int, y: int) -> None:
    images, _ = sample((1, 3, 16, 16), 1)
    result = ada(images, only({"shift": (0.5 + x / 4, 0.5 + y / 4)}), 0.5)
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    expected = torch.from_numpy(padded[:, :, 2 - y : 18 - y, 2 - x : 18 - x].copy())
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-5)
    inside = (slice(None), slice(None), slice(2, 14), slice(2, 14))
    torch.testing.assert_close(result[inside], images.roll((y, x), (2, 3))[inside], rtol=0, atol=1e-5)


def test_a_constant_image_has_no_geometry() -> None:
    _, draws = sample((50, 1, 8, 8), ADA_COLUMNS)
    draws[:, GATES["brightness"] :] = 1 - 2**-24
    images = torch.full((50, 3, 8, 8), 0.3)
    torch.testing.assert_close(ada(images, draws, 0.99), images)


# Colour of ADA


def test_luma_flip_twice_is_the_identity() -> None:
    images, _ = sample((1, 3, 8, 8), 1)
    draws = only({"luma_flip": (0.5,)})
    flipped = ada(images, draws, 0.5)
    torch.testing.assert_close(flipped.mean(1), -images.mean(1))
    torch.testing.assert_close(ada(flipped, draws, 0.5), images)


@pytest.mark.parametrize("draw", [0.0, 0.1, 0.35, 0.8])
def test_hue_rotation_keeps_luma_and_length(draw: float) -> None:
    images, _ = sample((1, 3, 8, 8), 1)
    result = ada(images, only({"hue": (draw,)}), 0.5)
    assert not torch.allclose(result, images, atol=1e-2)
    torch.testing.assert_close(result.mean(1), images.mean(1))
    torch.testing.assert_close(result.norm(dim=1), images.norm(dim=1))
    back = ada(result, only({"hue": (1 - draw,)}), 0.5)
    torch.testing.assert_close(back, images, rtol=1e-5, atol=1e-5)


def test_a_third_of_a_turn_of_the_hue_moves_the_channels_round() -> None:
    images, _ = sample((1, 3, 8, 8), 1)
    result = ada(images, only({"hue": (0.5 + 1 / 3,)}), 0.5)
    torch.testing.assert_close(result, images.roll(1, 1), rtol=1e-5, atol=1e-5)


def test_saturation_leaves_grey_alone() -> None:
    images, draws = sample((4, 1, 8, 8), 1)
    grey = images.expand(4, 3, 8, 8)
    result = ada(grey, only({"saturation": (draws[0].item(),), "hue": (0.9,)}, 4), 0.5)
    torch.testing.assert_close(result, grey)
    # A single channel is its own luma: to the last bit.
    assert torch.equal(ada(images, only({"saturation": (0.9,), "hue": (0.9,)}, 4), 0.5), images)


def test_grey_images_are_treated_alike_in_one_channel_and_in_three() -> None:
    images, draws = sample((20, 1, 8, 8), ADA_COLUMNS)
    one, three = ada(images, draws, 0.8), ada(images.expand(20, 3, 8, 8), draws, 0.8)
    torch.testing.assert_close(one.expand(20, 3, 8, 8), three, rtol=1e-5, atol=1e-5)


# Gates of ADA


@pytest.mark.parametrize("channels", [1, 3])
def test_nothing_changes_at_p_0_and_everything_at_p_1(channels: int) -> None:
    images, draws = sample((200, channels, 8, 8), ADA_COLUMNS)
    draws[0] = 0
    assert torch.equal(ada(images, draws, 0.0), images)
    assert torch.equal(ada(images, draws, torch.tensor(0.0)), images)
    assert (ada(images, draws, 1.0) != images).flatten(1).any(1).all()


def test_an_image_with_shut_gates_passes_among_others_that_change() -> None:
    images, draws = sample((8, 3, 8, 8), ADA_COLUMNS)
    draws[::2, list(GATES.values())] = 0.9
    draws[1::2, GATES["scale"]] = 0.1
    changed = (ada(images, draws, 0.5) != images).flatten(1).any(1)
    assert changed.tolist() == [False, True] * 4


def test_geometry_passes_exactly_where_only_colour_changes() -> None:
    images, _ = sample((1, 1, 8, 8), 1)
    result = ada(images, only({"luma_flip": (0.9,)}), 0.5)
    assert torch.equal(result, -images)


@pytest.mark.parametrize("p", [0.1, 0.6])
@pytest.mark.parametrize("name", GATES)
def test_gates_open_with_their_probability(name: str, p: float) -> None:
    count = 4000
    images, _ = sample((1, 3, 4, 8), 1)
    images = images.expand(count, -1, -1, -1)
    draws = torch.full((count, ADA_COLUMNS), 0.8)
    draws[:, GATES[name]] = torch.rand(count, generator=torch.Generator().manual_seed(2))
    changed = int((ada(images, draws, p) != images).flatten(1).any(1).sum())
    chance = 1 - math.sqrt(1 - p) if name in ("before", "after") else p
    assert abs(changed - count * chance) < 4 * math.sqrt(count * chance * (1 - chance))


def test_some_rotation_is_applied_with_probability_p() -> None:
    count, p = 4000, 0.4
    images, _ = sample((1, 3, 4, 8), 1)
    draws = torch.full((count, ADA_COLUMNS), 0.8)
    for seed, name in enumerate(("before", "after")):
        draws[:, GATES[name]] = torch.rand(count, generator=torch.Generator().manual_seed(seed))
    result = ada(images.expand(count, -1, -1, -1), draws, p)
    changed = int((result != images).flatten(1).any(1).sum())
    assert abs(changed - count * p) < 4 * math.sqrt(count * p * (1 - p))


@pytest.mark.parametrize("edge", [0.0, 1 - 2**-24])
def test_extreme_draws_stay_finite(edge: float) -> None:
    images, draws = sample((2, 3, 8, 8), ADA_COLUMNS)
    draws[:] = edge
    draws[:, list(GATES.values())] = 0
    assert torch.isfinite(ada(images, draws, 1.0)).all()


@pytest.mark.parametrize("channels", [1, 3])
def test_ada_is_twice_differentiable(channels: int) -> None:
    images, draws = sample((3, channels, 5, 6), ADA_COLUMNS)
    images = images.double().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: ada(x, draws, 0.7), (images,))
    # Cubed, since ADA itself is linear and its second derivative zero.
    assert torch.autograd.gradgradcheck(lambda x: ada(x, draws, 0.7) ** 3, (images,))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_look_up_is_that_of_pytorch_and_so_is_its_gradient(layout: torch.memory_format) -> None:
    images, places = sample((3, 2, 6, 6), 4 * 5 * 2)
    # Some of them outside, where the images are reflected.
    grid = 2.6 * places.view(3, 4, 5, 2) - 1.3
    results = []
    for look in (look_up, partial(grid_sample, padding_mode="reflection", align_corners=True)):
        x = images.clone(memory_format=layout).requires_grad_()
        found = look(x, grid)
        (gradient,) = torch.autograd.grad(found.square().sum(), x)
        results.append((found.detach(), gradient))
    assert torch.equal(results[0][0], results[1][0])
    assert torch.equal(results[0][1], results[1][1])
    assert results[0][1].stride() == results[1][1].stride()


# Both


@pytest.mark.parametrize("name", CHANGING)
@pytest.mark.parametrize("shape", [(8, 1, 8, 8), (26, 3, 9, 13), (2, 3, 128, 128), (6, 4, 8, 8)])
def test_halves_are_the_whole_to_the_last_bit(name: str, shape: tuple[int, ...]) -> None:
    columns, apply = built(name, shape[1:])
    images, draws = sample(shape, columns)
    half = shape[0] // 2
    for layout in (torch.contiguous_format, torch.channels_last):
        images = images.to(memory_format=layout)
        parts = [apply(images[:half], draws[:half], 0.6), apply(images[half:], draws[half:], 0.6)]
        assert torch.equal(apply(images, draws, 0.6), torch.cat(parts))


@pytest.mark.parametrize("name", CHOICES)
@pytest.mark.parametrize("channels", [1, 3])
def test_channels_last_is_the_same(name: str, channels: int) -> None:
    columns, apply = built(name, (channels, 8, 10))
    images, draws = sample((4, channels, 8, 10), columns)
    expected = apply(images, draws, 0.8)
    result = apply(images.to(memory_format=torch.channels_last), draws, 0.8)
    assert result.dtype == torch.float32
    torch.testing.assert_close(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", CHANGING)
def test_autocast_does_not_reach_the_images(name: str) -> None:
    columns, apply = built(name, (3, 8, 8))
    images, draws = sample((4, 3, 8, 8), columns)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = apply(images, draws, 0.8)
    assert torch.equal(result, apply(images, draws, 0.8))


def test_none_changes_nothing() -> None:
    images, draws = sample((4, 3, 8, 8), 0)
    assert build("none")(images, draws, 0.5) is images
    assert build("none").columns((3, 8, 8)) == 0


@pytest.mark.parametrize("name", CHANGING)
def test_images_and_draws_are_left_alone(name: str) -> None:
    columns, apply = built(name, (3, 8, 8))
    images, draws = sample((4, 3, 8, 8), columns)
    before = images.clone(), draws.clone()
    apply(images, draws, 1.0)
    assert torch.equal(images, before[0])
    assert torch.equal(draws, before[1])


@pytest.mark.parametrize("name", ["diffaugment", "ada"])
def test_colours_change_no_alpha(name: str) -> None:
    columns, augment = built(name, (4, 8, 12))
    images, draws = sample((3, 4, 8, 12), columns)
    colours, moved = (augment(images, draws, 1.0), augment(images[:, :3].clone(), draws, 1.0))
    torch.testing.assert_close(colours[:, :3], moved)
    alone: AugmentChoice = {name: ("color",)}
    assert torch.equal(build(alone)(images, draws, 1.0)[:, 3], images[:, 3])


def test_one_pixel_is_enough() -> None:
    for name in CHANGING:
        columns, apply = built(name, (3, 1, 1))
        images, draws = sample((3, 3, 1, 1), columns)
        assert torch.isfinite(apply(images, draws, 1.0)).all()


# The controller


def adjustments(signs: Iterator[float], images: int, p: float = 0.0) -> list[float]:
    history = []
    for sign in signs:
        p = adjusted(p, sign, images)
        history.append(p)
    return history


def test_constant_sign_moves_p_in_proportion_to_images() -> None:
    history = adjustments(iter([0.9] * 2000), 256)
    for steps, p in enumerate(history, start=1):
        assert p == pytest.approx(min(steps * 256 / 500_000, 1.0), rel=1e-12)
    assert history[-1] == 1.0


def test_p_turns_round_and_stops_at_zero() -> None:
    history = adjustments(iter([0.61] * 10 + [0.59] * 15), 1000)
    assert history[9] == pytest.approx(0.02, rel=1e-12)
    assert history[14] == pytest.approx(0.01, rel=1e-12)
    assert history[-1] == 0.0


def test_p_stays_at_the_target_and_options_are_used() -> None:
    assert adjusted(0.3, 0.6, 1000) == 0.3
    assert adjusted(0.3, 0.5, 1000, target=0.4, kimg=100) == pytest.approx(0.31)
    assert adjusted(0.5, -1.0, 10**9) == 0.0
    assert adjusted(0.5, 1.0, 10**9) == 1.0


@pytest.mark.parametrize(
    ("p", "sign", "kimg"), [(-0.1, 0, 500), (1.1, 0, 500), (math.nan, 0, 500), (0, math.nan, 500), (0, 0, 0)]
)
def test_controller_refuses_what_is_no_state(p: float, sign: float, kimg: float) -> None:
    with pytest.raises(ValueError, match="must be in"):
        adjusted(p, sign, 100, kimg=kimg)
