"""Random numbers as functions of a key: the same for ever, and unrelated for different keys."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from gan_dist.core import rng


def test_bits_never_change() -> None:
    assert rng.bits(3, 0, "x").tolist() == BITS
    assert rng.bits(2, 2**32 - 1, "epoch", 7, 2**40).tolist() == BITS_FAR


def test_permutations_never_change() -> None:
    assert rng.permutation(12, 42, "epoch", 3).tolist() == PERMUTATION


def test_normal_numbers_never_change() -> None:
    # Below and above the 16 numbers from which PyTorch fills a tensor in another way.
    few, many = rng.normal((4,), 42, "latents", 64), rng.normal((8, 5), 42, "latents", 64)
    torch.testing.assert_close(few, torch.tensor(FEW), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(many[0], torch.tensor(MANY), rtol=1e-5, atol=1e-6)


def test_the_same_key_gives_the_same_numbers() -> None:
    assert torch.equal(rng.normal((6, 7), 1, "a", 2), rng.normal((6, 7), 1, "a", 2))
    assert np.array_equal(rng.bits(9, 1, "a", 2), rng.bits(9, 1, "a", 2))


def test_numbers_do_not_depend_on_what_was_drawn_before() -> None:
    fresh = rng.normal((5,), 3, "a", 1)
    torch.randn(100)
    np.random.SeedSequence(3).spawn(2)
    rng.normal((11,), 3, "a", 0)
    assert torch.equal(rng.normal((5,), 3, "a", 1), fresh)


def test_drawing_leaves_the_global_generator_alone() -> None:
    before = torch.random.get_rng_state()
    rng.normal((5,), 3, "a", 1)
    rng.permutation(5, 3, "a", 1)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_seeds_names_and_counters_give_unrelated_numbers() -> None:
    count = 4096
    keys = itertools.product((0, 1, 2**32 - 1), ("latents-d", "latents-g", "window"), (0, 1, 64, 2**33))
    drawn = torch.stack([rng.normal((count,), seed, name, at) for seed, name, at in keys])
    correlation = torch.corrcoef(drawn)
    correlation.fill_diagonal_(0)
    # Of 630 pairs of unrelated rows none exceeds 5 deviations.
    assert correlation.abs().max() < 5 / count**0.5


def test_the_order_of_counters_matters() -> None:
    assert not np.array_equal(rng.bits(4, 0, "window", 2, 3), rng.bits(4, 0, "window", 3, 2))


def test_a_longer_draw_begins_with_the_shorter_one() -> None:
    assert np.array_equal(rng.bits(1000, 5, "set")[:10], rng.bits(10, 5, "set"))


@pytest.mark.parametrize("world_size", [1, 2, 3, 4, 6])
def test_slices_of_the_ranks_are_the_global_batch(world_size: int) -> None:
    batch = 24
    share = batch // world_size
    parts = [
        rng.normal((batch, 10), 7, "latents", 480)[rank * share : (rank + 1) * share]
        for rank in range(world_size)
    ]
    assert torch.equal(torch.cat(parts), rng.normal((batch, 10), 7, "latents", 480))


def test_normal_numbers_are_standard_normal() -> None:
    numbers = rng.normal((100_000,), 0, "moments").double()
    assert numbers.dtype == torch.float64
    assert abs(float(numbers.mean())) < 4 / 100_000**0.5
    assert abs(float(numbers.var()) - 1) < 4 * (2 / 100_000) ** 0.5
    assert abs(float((numbers**4).mean()) - 3) < 4 * (96 / 100_000) ** 0.5


def test_permutations_are_uniform() -> None:
    counts = dict.fromkeys(itertools.permutations(range(3)), 0)
    for counter in range(6000):
        counts[tuple(rng.permutation(3, 0, "uniform", counter).tolist())] += 1
    # Chi-square with 5 degrees of freedom: 25.7 is exceeded once in 10,000.
    assert sum((count - 1000) ** 2 / 1000 for count in counts.values()) < 25.7


@pytest.mark.parametrize("count", [0, 1, 2, 1000])
def test_a_permutation_holds_every_number_once(count: int) -> None:
    assert sorted(rng.permutation(count, 0, "p").tolist()) == list(range(count))


BITS = [12140282946327305013, 9449202165148213532, 7680390201785710032]
BITS_FAR = [9850126322358046231, 16147263514171608221]
PERMUTATION = [7, 8, 3, 9, 1, 11, 4, 2, 5, 0, 10, 6]
FEW = [-0.697863, -0.137744, -0.692847, 1.208037]
MANY = [-1.048028, 0.820174, -1.145821, -0.172443, -1.04621]
