"""Pipelines of a user's choice: which transforms act, wavelets, bands of frequencies, noise and cutouts."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import torch
from scipy import signal
from torch import Tensor

from gan_dist.config import DataConfig
from gan_dist.config.augment import AugmentChoice
from gan_dist.training import augment
from gan_dist.training.augment.ada import BGC, COLUMNS
from gan_dist.training.augment.base import Augmentation
from gan_dist.training.augment.geometry import warp
from gan_dist.training.augment.wavelets import (
    DELAY,
    MARGIN,
    POWER,
    SYM6,
    band_gains,
    filter_bands,
    filtered_warp,
    reflect,
)

Array = npt.NDArray[Any]
SYM2 = np.array([1 + 3**0.5, 3 + 3**0.5, 3 - 3**0.5, 1 - 3**0.5]) / (4 * 2**0.5)
TRANSFORMS = tuple(COLUMNS)


def uniform(*shape: int, seed: int = 0) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def build(choice: AugmentChoice) -> Augmentation:
    return augment.build(DataConfig(path="x", augment=choice))


def ada(*names: str) -> Augmentation:
    return build({"ada": names})


def mirrored(index: int, size: int) -> int:
    while not 0 <= index < size:
        index = -index if index < 0 else 2 * (size - 1) - index
    return index


# Which transforms act


@pytest.mark.parametrize("name", TRANSFORMS)
def test_each_transform_is_in_a_pipeline_by_itself_and_takes_its_own_columns(name: str) -> None:
    one, others = ada(name), ada(*(other for other in TRANSFORMS if other != name))
    shape = (3, 8, 8)
    images = uniform(40, *shape) * 2 - 1
    draws = uniform(40, one.columns(shape), seed=1)
    assert one.columns(shape) + others.columns(shape) == ada(*TRANSFORMS).columns(shape)
    assert not torch.equal(one(images, draws, 0.9), images)
    assert torch.equal(one(images, draws, 0.0), images)


def test_with_a_filter_geometry_leads_to_the_same_places_but_is_smoother() -> None:
    images, draws = uniform(16, 3, 8, 8).float() * 2 - 1, uniform(16, 28).float()
    filtered = ada(*BGC)(images, draws, 0.6)
    assert 0.05 < (filtered - build("ada")(images, draws, 0.6)).abs().mean() < 0.3


def test_a_share_divides_the_probability_of_its_transform_alone() -> None:
    images = torch.full((4000, 1, 2, 2), 0.5)
    halved, whole = build({"ada": {"color": 0.5, "cutout": 1}}), ada("color", "cutout")
    draws = uniform(4000, 13, seed=3)
    assert torch.equal(
        build({"ada": {"color": 0.5}})(images, draws[:, :10], 0.8), ada("color")(images, draws[:, :10], 0.4)
    )
    neutral = draws.clone()
    neutral[:, :10] = 1 - 2**-24  # colour's gates stay shut
    assert torch.equal(halved(images, neutral, 0.8), whole(images, neutral, 0.8))


@pytest.mark.parametrize("policies", [("translation", "cutout"), ("color", "translation", "cutout")])
def test_diffaugment_applies_its_policies_one_after_the_other(policies: tuple[str, ...]) -> None:
    images, draws = uniform(5, 3, 8, 8).float() * 2 - 1, uniform(5, 7).float()
    expected = images
    for policy in policies:
        expected = build({"diffaugment": (policy,)})(expected, draws, 0.0)
        assert not torch.equal(expected, images)
    assert torch.equal(build({"diffaugment": policies})(images, draws, 0.0), expected)


# Geometry without aliasing


def test_sym6_is_orthogonal_and_has_six_vanishing_moments() -> None:
    taps = np.array(SYM6)
    assert taps.sum() == pytest.approx(math.sqrt(2), abs=1e-12)
    for shift in range(6):
        assert taps[: 12 - 2 * shift] @ taps[2 * shift :] == pytest.approx(float(shift == 0), abs=1e-11)
        assert sum((-1) ** k * k**shift * tap for k, tap in enumerate(taps)) == pytest.approx(0, abs=1e-8)
    # Nearly symmetric: for low frequencies it is a shift by DELAY.
    frequencies, response = signal.freqz(taps, worN=64)
    off = np.angle(response * np.exp(1j * DELAY * frequencies))[:16]
    assert np.abs(off).max() < 0.1


def mirrored_far(place: float, size: int) -> float:
    """A place from the centre, mirrored at the border pixels if it is more than MARGIN beyond them."""
    edge = (size - 1) / 2
    if abs(place) <= edge + MARGIN:
        return place
    while abs(place) > edge:
        place = math.copysign(2 * edge, place) - place
    return place


def filtered_warp_one(image: Array, to_source: Array) -> Array:
    """A slow reference for one image, float64 (C, H, W): zeros between pixels, SYM6, bilinear, SYM6."""
    channels, height, width = image.shape
    taps = np.outer(SYM6, SYM6)
    margin = 4 * max(height, width)
    rows = [mirrored(row, height) for row in range(-margin, height + margin)]
    columns = [mirrored(column, width) for column in range(-margin, width + margin)]
    around = image[:, rows][:, :, columns]
    spread = np.zeros((channels, 2 * around.shape[1], 2 * around.shape[2]))
    spread[:, ::2, ::2] = around
    # Convolved, pixel n adds tap t to number 2 n + t.
    fine = np.stack([signal.convolve(one, 2 * taps, mode="full") for one in spread])
    result = np.zeros_like(image)
    for row in range(height):
        for column in range(width):
            for i in range(12):
                for j in range(12):
                    y = row + (i - DELAY) / 2 - (height - 1) / 2
                    x = column + (j - DELAY) / 2 - (width - 1) / 2
                    source_x, source_y, _ = to_source @ [x, y, 1]
                    source_x, source_y = mirrored_far(source_x, width), mirrored_far(source_y, height)
                    v = 2 * (source_y + (height - 1) / 2 + margin) + DELAY
                    u = 2 * (source_x + (width - 1) / 2 + margin) + DELAY
                    a, b = math.floor(v), math.floor(u)
                    corner = fine[:, a : a + 2, b : b + 2]
                    value = np.array([1 - (v - a), v - a]) @ corner @ np.array([1 - (u - b), u - b])
                    result[:, row, column] += taps[i, j] / 2 * value
    return result


@pytest.mark.parametrize("shape", [(1, 8, 8), (2, 5, 7)])
def test_the_filtered_warp_is_the_slow_reference(shape: tuple[int, ...]) -> None:
    images = uniform(2, *shape) * 2 - 1
    turn, scale = 0.7, 1.6
    matrix = [[scale * math.cos(turn), -math.sin(turn), 1.3], [math.sin(turn), scale * math.cos(turn), -9.4]]
    maps = torch.tensor([[*matrix, [0, 0, 1]]] * 2, dtype=torch.float64)
    found = filtered_warp(images, maps).numpy()
    for image, one in zip(images.numpy(), found, strict=True):
        expected = filtered_warp_one(image, maps[0].numpy())
        assert np.abs(one - expected).max() / np.abs(expected).max() < 1e-12
    single = filtered_warp(images.float(), maps.float()).numpy()
    assert np.abs(single - found).max() / np.abs(found).max() < 1e-4


def test_whole_shifts_are_exact_and_shrinking_does_not_alias() -> None:
    images = uniform(1, 1, 16, 16)
    shift = torch.eye(3, dtype=torch.float64)[None].clone()
    shift[0, 0, 2], shift[0, 1, 2] = 2, -3
    assert torch.equal(filtered_warp(images, torch.eye(3, dtype=torch.float64)[None]), images)
    moved = filtered_warp(images, shift)
    torch.testing.assert_close(moved[..., 3:, :-2], images[..., :-3, 2:], rtol=0, atol=1e-11)
    # Flipped waves stay in place.
    wave = torch.cos(torch.arange(16, dtype=torch.float64) * 0.6).expand(1, 1, 16, 16)
    flip = torch.diag_embed(torch.tensor([[-1.0, 1, 1]], dtype=torch.float64))
    assert (filtered_warp(wave, flip) - wave.flip(3))[..., 3:-3].abs().max() < 0.02
    # A board of single pixels, shrunk to three fifths, is grey; without a filter it is a pattern.
    board = (torch.arange(16)[:, None] + torch.arange(16)).double().remainder(2)[None, None] * 2 - 1
    shrink = torch.diag_embed(torch.tensor([[5 / 3, 5 / 3, 1.0]], dtype=torch.float64))
    assert filtered_warp(board, shrink).abs().mean() < 0.12
    assert warp(board, shrink).abs().mean() > 0.2


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_reflection_goes_on_however_far(size: int) -> None:
    line = torch.arange(size, dtype=torch.float64)[None, None, None]
    expected = [mirrored(place, size) if size > 1 else 0 for place in range(-9, size + 11)]
    assert reflect(line, 9, 11, 3).flatten().tolist() == expected


# Bands of frequencies


def test_bands_are_those_of_the_wavelet_tree() -> None:
    """Every band's image by the analysis and synthesis filters of sym2 itself, written out."""
    low = np.convolve(SYM2, SYM2[::-1]) / 2
    high_pass = SYM2 * (-1) ** np.arange(4)
    high = np.convolve(high_pass, high_pass[::-1]) / 2

    def stretched(taps: Array, step: int) -> Array:
        wide = np.zeros(step * (len(taps) - 1) + 1)
        wide[::step] = taps
        return wide

    below, bands = np.ones(1), list[Array]()
    for step in (1, 2, 4):
        bands.insert(0, np.convolve(below, stretched(high, step)))
        below = np.convolve(below, stretched(low, step))
    bands.insert(0, below)
    image = uniform(1, 1, 12, 9) * 2 - 1
    for gains in ([1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 1, 0], [0, 0, 0, 1], [0.5, 2, 1, 3]):
        taps = np.array(gains) @ np.stack([np.pad(band, (43 - len(band)) // 2) for band in bands])
        rows = [mirrored(place, 12) for place in range(-21, 33)]
        columns = [mirrored(place, 9) for place in range(-21, 30)]
        around = image[0, 0].numpy()[rows][:, columns]
        expected = signal.convolve2d(around, np.outer(taps, taps), mode="valid")
        found = filter_bands(image, torch.tensor([gains], dtype=torch.float64))[0, 0].numpy()
        assert np.abs(found - expected).max() / np.abs(expected).max() < 1e-12


def test_each_band_passes_its_octave() -> None:
    """Waves in the middle of the bands: each band has its own wave, and little of others'."""
    for own, frequency in enumerate((1 / 32, 3 / 16, 3 / 8, 3 / 4)):
        line = torch.cos(math.pi * frequency * torch.arange(96, dtype=torch.float64))
        wave = (line[:, None] * line).expand(1, 1, 96, 96)
        passed = [filter_bands(wave, torch.eye(4)[band : band + 1]).norm() / wave.norm() for band in range(4)]
        assert passed[own] > 0.45
        assert all(passed[other] < 0.3 * passed[own] for other in range(4) if other != own)


def test_gains_keep_the_expected_power() -> None:
    draws, chance = uniform(3000, 8, seed=5), torch.tensor(0.7, dtype=torch.float64)
    gains = band_gains(iter(draws.unbind(1)), chance)
    power = (torch.tensor(POWER, dtype=torch.float64) * gains.square()).sum(1)
    # Exactly where one band is amplified.
    single = (draws[:, ::2] < 0.7).sum(1) == 1
    torch.testing.assert_close(power[single], torch.ones(int(single.sum()), dtype=torch.float64))
    shut = (draws[:, ::2] >= 0.7).all(1)
    assert torch.equal(gains[shut], torch.ones(int(shut.sum()), 4, dtype=torch.float64))
    one = band_gains(
        iter(torch.tensor([[0.9, 0.5, 0.1, 0.9, 0.9, 0.5, 0.9, 0.5]]).double().unbind(1)), chance
    )
    amplified = 2 ** NormalDist().inv_cdf(0.9)
    norm = math.sqrt(10 / 13 + amplified**2 / 13 + 2 / 13)
    expected = torch.tensor([[1 / norm, amplified / norm, 1 / norm, 1 / norm]], dtype=torch.float64)
    torch.testing.assert_close(one, expected, rtol=1e-6, atol=0)


# Noise and cutouts


def test_noise_has_the_paper_s_deviations() -> None:
    shape = (1, 16, 16)
    noisy = ada("noise")
    assert noisy.columns(shape) == 2 + 256
    draws = uniform(2000, 258, seed=7)
    found = noisy(torch.zeros(2000, *shape, dtype=torch.float64), draws, 0.5)
    opened = draws[:, 0] < 0.5
    assert torch.equal(found[~opened], torch.zeros_like(found[~opened]))
    deviations = 0.1 * torch.special.ndtri(draws[opened, 1]).abs()
    ratios = found[opened].flatten(1).std(1) / deviations
    assert abs(float(ratios.mean()) - 1) < 0.01
    # Half-normal: E = 0.1 sqrt(2 / pi).
    assert float(deviations.mean()) == pytest.approx(0.1 * math.sqrt(2 / math.pi), rel=0.06)
    assert abs(float((found[opened] / deviations[:, None, None, None]).mean())) < 0.01


def test_cutouts_are_squares_of_half_the_size_around_a_centre_anywhere() -> None:
    draws = torch.tensor([[0.1, 0.5, 0.5], [0.1, 0.0, 1 - 2**-24], [0.1, 0.3, 0.9], [0.9, 0.5, 0.5]])
    images = torch.ones(4, 1, 8, 12)
    expected = torch.ones(4, 8, 12)
    expected[0, 2:6, 3:9] = 0
    expected[1, 6:, :3] = 0
    expected[2, 5:, 1:7] = 0  # rows from (0.9 - 0.25) 8 = 5.2, columns from 0.6 to 6.6
    assert torch.equal(ada("cutout")(images, draws, 0.5)[:, 0], expected)


@pytest.mark.parametrize("name", ["geom", "filter", "noise", "cutout"])
def test_each_new_transform_is_twice_differentiable(name: str) -> None:
    augmentation = ada(name)
    images = (uniform(2, 1, 4, 5) * 2 - 1).requires_grad_()
    draws = uniform(2, augmentation.columns((1, 4, 5)), seed=9)
    assert torch.autograd.gradcheck(lambda x: augmentation(x, draws, 0.9), (images,))
    assert torch.autograd.gradgradcheck(lambda x: augmentation(x, draws, 0.9) ** 3, (images,))
