from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
import torch

from gan_dist.config import LossConfig
from gan_dist.losses import build

Name = Literal["minimax", "nonsaturating"]
NAMES: tuple[Name, ...] = ("minimax", "nonsaturating")


def logits(count: int = 64, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    real, fake = scale * torch.randn(2, count, dtype=torch.float64, generator=generator)
    return real, fake


def sigmoid(values: torch.Tensor) -> np.ndarray[tuple[int, ...], np.dtype[np.float64]]:
    return np.asarray(1.0 / (1.0 + np.exp(-values.numpy())))


@pytest.mark.parametrize("name", NAMES)
def test_discriminator_is_equation_1_of_the_paper(name: Name) -> None:
    real, fake = logits()
    expected = -np.mean(np.log(sigmoid(real))) - np.mean(np.log(1 - sigmoid(fake)))
    assert build(LossConfig(name=name)).discriminator(real, fake).item() == pytest.approx(expected, rel=1e-12)


def test_generators_are_the_papers() -> None:
    real, fake = logits()
    minimax, nonsaturating = (build(LossConfig(name=name)).generator for name in NAMES)
    assert minimax(fake, None).item() == pytest.approx(np.mean(np.log(1 - sigmoid(fake))), rel=1e-12)
    assert nonsaturating(fake, None).item() == pytest.approx(-np.mean(np.log(sigmoid(fake))), rel=1e-12)
    for loss in (minimax, nonsaturating):
        assert torch.equal(loss(fake, real), loss(fake, None))


@pytest.mark.parametrize("name", NAMES)
def test_both_sides_are_minimised(name: Name) -> None:
    """A step down the gradient raises D on reals, lowers it on fakes, and raises it for the generator."""
    loss = build(LossConfig(name=name))
    real, fake = (values.requires_grad_() for values in logits())
    down_real, down_fake = torch.autograd.grad(-loss.discriminator(real, fake), [real, fake])
    assert (down_real > 0).all()
    assert (down_fake < 0).all()
    (down,) = torch.autograd.grad(-loss.generator(fake, None), [fake])
    assert (down > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_undecided_discriminator(name: Name) -> None:
    loss = build(LossConfig(name=name))
    zeros = torch.zeros(8)
    assert loss.discriminator(zeros, zeros).item() == pytest.approx(math.log(4), rel=1e-6)
    sign = -1.0 if name == "minimax" else 1.0
    assert loss.generator(zeros, None).item() == pytest.approx(sign * math.log(2), rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("extreme", [-1e30, -1e4, -100.0, 100.0, 1e4, 1e30])
def test_extreme_logits_stay_finite(name: Name, dtype: torch.dtype, extreme: float) -> None:
    loss = build(LossConfig(name=name))
    values = torch.full((4,), extreme, dtype=dtype, requires_grad=True)
    for scalar in (
        loss.discriminator(values, -values),
        loss.discriminator(values, values),
        loss.generator(values, None),
    ):
        (gradient,) = torch.autograd.grad(scalar, [values])
        assert scalar.isfinite()
        assert gradient.isfinite().all()
    wrong = -min(extreme, 0.0)
    confident = loss.discriminator(values, -values).item()
    assert confident == pytest.approx(2 * wrong, rel=1e-6, abs=1e-30)


def test_only_the_saturating_loss_loses_its_gradient() -> None:
    fake = torch.full((1,), -50.0, dtype=torch.float64, requires_grad=True)
    minimax, nonsaturating = (
        torch.autograd.grad(build(LossConfig(name=name)).generator(fake, None), [fake])[0].item()
        for name in NAMES
    )
    assert minimax == pytest.approx(-math.exp(-50), rel=1e-12)
    assert nonsaturating == pytest.approx(-1.0, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1.0, 10.0])
def test_gradients(name: Name, scale: float) -> None:
    loss = build(LossConfig(name=name))
    real, fake = (values.requires_grad_() for values in logits(8, scale))
    assert torch.autograd.gradcheck(loss.discriminator, (real, fake))
    assert torch.autograd.gradcheck(lambda values: loss.generator(values, None), (fake,))


@pytest.mark.parametrize("name", NAMES)
def test_mean_of_equal_parts_is_the_whole(name: Name) -> None:
    """What DDP relies on: the mean over workers' losses is the loss of the global batch."""
    loss = build(LossConfig(name=name))
    real, fake = logits()
    parts = [
        loss.discriminator(r, f) for r, f in zip(torch.split(real, 16), torch.split(fake, 16), strict=True)
    ]
    torch.testing.assert_close(
        torch.stack(parts).mean(), loss.discriminator(real, fake), rtol=1e-14, atol=0.0
    )
