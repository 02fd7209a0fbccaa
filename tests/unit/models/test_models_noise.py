from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from gan_dist.models import noise


def latents(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 12, generator=torch.Generator().manual_seed(seed))


def correlations(one: Tensor, other: Tensor) -> Tensor:
    """Correlations along the last dimension, in standard errors."""
    one, other = (x - x.mean(-1, keepdim=True) for x in (one, other))
    errors: Tensor = (one * other).sum(-1) / (one.norm(dim=-1) * other.norm(dim=-1)) * one.shape[-1] ** 0.5
    return errors


def is_chance(errors: Tensor) -> bool:
    """Whether numbers could be from N(0, 1): their mean square, and the largest."""
    count = errors.numel()
    near = (errors.square().mean() - 1).abs() < 5 * (2 / count) ** 0.5
    return bool(near & (errors.abs().max() < 1 + (2 * math.log(100 * count)) ** 0.5))


def test_numbers_are_exact_integers_by_the_documented_rule() -> None:
    """A slow reference in Python's integers."""

    def mix(x: int) -> int:
        for constant in (1013904223, 1664525):
            x = pow((x + constant) % noise.PRIME, 5, noise.PRIME)
        return x

    given = latents(3)
    seeds = []
    for latent in given.tolist():
        steps = [round(number * 2**16) for number in latent]
        seeds.append(mix(sum(step * mix(i) for i, step in enumerate(steps)) % noise.PRIME))
    assert noise.seeds(given).tolist() == seeds
    found = noise.normal(noise.seeds(given), 5, 4, 6)
    for image, seed in enumerate(seeds):
        for position in range(24):
            key = ((position // 2) * noise.LAYERS + 5) * 4
            a, b, c, d = (mix(key + kind) for kind in range(4))
            u, v = ((seed * x + y) % noise.PRIME for x, y in ((a, b), (c, d)))
            turn = math.sin if position % 2 else math.cos
            value = math.sqrt(-2 * math.log((u + 1) / 2**31)) * turn(2 * math.pi * (v + 1) / 2**31)
            assert found[image, 0].flatten()[position].item() == pytest.approx(value, abs=2e-6)


def test_maps_of_odd_edges_have_the_numbers_of_even_ones() -> None:
    seeds = noise.seeds(latents(2))
    odd, even = noise.normal(seeds, 3, 5, 3), noise.normal(seeds, 3, 4, 4)
    assert odd.shape == (2, 1, 5, 3)
    assert torch.equal(odd.flatten(1), even.flatten(1)[:, :15])


def test_it_is_normal() -> None:
    numbers = noise.normal(noise.seeds(latents(64)), 0, 64, 64).flatten().double()
    count = numbers.numel()
    for power, moment, variance in ((1, 0, 1), (2, 1, 2), (3, 0, 15), (4, 3, 96)):
        assert numbers.pow(power).mean().item() == pytest.approx(moment, abs=5 * (variance / count) ** 0.5)
    ordered = numbers.sort().values
    uniform = (1 + torch.erf(ordered / 2**0.5)) / 2
    apart = (uniform - torch.arange(1, count + 1) / count).abs().max()
    assert apart * count**0.5 < 2  # Kolmogorov and Smirnov: below 1.36 in 95 of 100 samples


def test_images_layers_and_positions_are_independent() -> None:
    given = latents(48)
    given[1] = given[0]
    given[1, 3] += noise.LATENT_STEP  # the nearest latent that counts as another
    given[2] = -given[0]
    seeds = noise.seeds(given)
    maps = noise.normal(seeds, 0, 32, 32)[:, 0]
    flat, other_layer = maps.flatten(1), noise.normal(seeds, 1, 32, 32).flatten(1)
    pairs = torch.triu_indices(48, 48, offset=1)
    for images in (flat, flat.square(), flat.abs()):
        assert is_chance(correlations(images[pairs[0]], images[pairs[1]]))
    assert is_chance(correlations(flat, other_layer))
    assert is_chance(correlations(flat[pairs[0]], other_layer[pairs[1]]))
    for down, right in ((0, 1), (1, 0), (1, 1), (0, 2), (3, 5), (16, 0)):
        moved, still = maps[:, down:, right:], maps[:, : 32 - down, : 32 - right]
        for one, other in ((moved, still), (moved.square(), still.square())):
            assert is_chance(correlations(one.flatten(1), other.flatten(1)))
    positions = flat.T[:64]
    pairs = torch.triu_indices(64, 64, offset=1)
    assert is_chance(correlations(positions[pairs[0]], positions[pairs[1]]))


def test_an_images_noise_has_the_same_bits_in_every_batch() -> None:
    given = latents(20)
    everywhere = noise.normal(noise.seeds(given), 3, 8, 8)
    for part in (slice(0, 1), slice(7, 10), slice(3, 20)):
        assert torch.equal(noise.normal(noise.seeds(given[part]), 3, 8, 8), everywhere[part])
    assert torch.equal(noise.normal(noise.seeds(given.flip(0)), 3, 8, 8).flip(0), everywhere)
    by_layer = torch.stack([given, latents(20, seed=1)], 1)
    assert torch.equal(noise.seeds(by_layer), noise.seeds(given))  # the first latent counts


def test_no_gradient_passes_through_it_and_no_random_state_is_used() -> None:
    torch.manual_seed(0)
    given = latents(2).requires_grad_()
    before = torch.get_rng_state()
    assert not noise.normal(noise.seeds(given), 0, 4, 4).requires_grad
    assert torch.equal(torch.get_rng_state(), before)


def test_layers_are_limited() -> None:
    with pytest.raises(ValueError, match="layers 0 to 63, not 64"):
        noise.normal(noise.seeds(latents(1)), noise.LAYERS, 4, 4)
