from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from gan_dist.config import EmaConfig, OptimConfig
from gan_dist.training.schedule import ema_decay, half_life
from gan_dist.training.step import update_ema


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.Linear(4, 4, bias=False))


def decay(images: int, **keys: float) -> float:
    """Weight of the old average at a batch of 64, with a cosine over 1000 kimg."""
    optim = OptimConfig(schedule="cosine", decay_kimg=1000.0)
    return ema_decay(64, half_life(EmaConfig(**keys), optim, images))


def test_weight_halves_after_the_half_life() -> None:
    # 10 kimg in batches of 64; the ramp is over after 10,000 / 0.05 images.
    beta = decay(1_000_000)
    assert beta == pytest.approx(0.5 ** (64 / 10_000), rel=1e-15)
    assert beta ** (10_000 / 64) == pytest.approx(0.5, rel=1e-12)


def test_half_life_is_at_most_a_fraction_of_the_images_seen() -> None:
    assert decay(100_000) == pytest.approx(0.5 ** (64 / 5_000), rel=1e-15)
    assert decay(200_000) == decay(10**9)


def test_a_half_life_with_a_start_goes_by_the_schedule() -> None:
    """Huang et al. 2024's code: start + (1 - (1 + cos(pi t)) / 2) (end - start), without a ramp."""
    optim, ema = OptimConfig(schedule="cosine", decay_kimg=1000.0), EmaConfig(half_life_start_kimg=2)
    for images, expected in ((0, 2000), (250_000, 2000 + 8000 * (0.5 - 0.125**0.5)), (500_000, 6000)):
        assert half_life(ema, optim, images) == pytest.approx(expected, rel=1e-12)
    assert half_life(ema, optim, 1_000_000) == half_life(ema, optim, 10**9) == 10_000


def test_nothing_of_the_initial_weights_stays_at_the_start() -> None:
    assert decay(0) == decay(0, half_life_start_kimg=0) == 0.0
    average, model = network(), network()
    update_ema(average, model, 0.0)
    for kept, new in zip(average.parameters(), model.parameters(), strict=True):
        assert torch.equal(kept, new)


def test_update_is_the_closed_form_over_many_steps() -> None:
    """After n steps: beta^n a_0 + (1 - beta) sum_k beta^(n-k) m_k, for every parameter."""
    beta, steps = 0.9, 25
    average = network().double()
    start = [parameter.detach().clone() for parameter in average.parameters()]
    models = [network().double() for _ in range(steps)]
    for model in models:
        update_ema(average, model, beta)
    for index, kept in enumerate(average.parameters()):
        expected = beta**steps * start[index]
        for step, model in enumerate(models, start=1):
            expected += (1 - beta) * beta ** (steps - step) * list(model.parameters())[index]
        torch.testing.assert_close(kept, expected, rtol=1e-12, atol=1e-12)


def test_buffers_are_copied_and_the_model_is_left_alone() -> None:
    average, model = network(), network()
    normalisation = model[1]
    assert isinstance(normalisation, nn.BatchNorm2d)
    normalisation(torch.randn(8, 3, 5, 5) * 3 + 1)
    before = copy.deepcopy(model.state_dict())
    update_ema(average, model, 0.99)
    for name, buffer in average.named_buffers():
        assert torch.equal(buffer, model.get_buffer(name)), name
    assert average.get_buffer("1.num_batches_tracked").item() == 1
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_average_needs_no_gradients() -> None:
    average, model = network().requires_grad_(False), network()
    update_ema(average, model, 0.5)
    assert not any(parameter.requires_grad for parameter in average.parameters())
    assert all(parameter.grad_fn is None for parameter in average.parameters())


def test_modules_that_differ_are_refused() -> None:
    with pytest.raises(ValueError, match="4 parameters"):
        update_ema(nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2)), nn.Linear(2, 2), 0.5)
    with pytest.raises(ValueError, match="decay"):
        update_ema(network(), network(), 1.5)
