from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal, get_args

import numpy as np
import numpy.typing as npt
import pytest
import torch

from gan_dist.config import LossConfig
from gan_dist.training.losses import LOSSES, build

Name = Literal["minimax", "nonsaturating", "lsgan", "wgan", "wgan-gp", "hinge", "rpgan"]
NAMES: tuple[Name, ...] = get_args(Name)
SMOOTHED: tuple[Name, ...] = ("minimax", "nonsaturating", "lsgan")
Array = npt.NDArray[np.float64]


def logits(count: int = 64, scale: float = 3.0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    real, fake = scale * torch.randn(2, count, dtype=torch.float64, generator=generator)
    return real, fake


def sigmoid(values: Array) -> Array:
    return np.asarray(1.0 / (1.0 + np.exp(-values)))


def mean(values: Array) -> float:
    return float(np.mean(values))


def wrong_real(r: Array) -> float:
    return -mean(np.log(sigmoid(r)))


PAPERS: dict[Name, tuple[Callable[[Array, Array], float], Callable[[Array, Array], float]]] = {
    "minimax": (
        lambda r, f: wrong_real(r) - mean(np.log(1 - sigmoid(f))),
        lambda _, f: mean(np.log(1 - sigmoid(f))),
    ),
    "nonsaturating": (
        lambda r, f: wrong_real(r) - mean(np.log(1 - sigmoid(f))),
        lambda _, f: -mean(np.log(sigmoid(f))),
    ),
    "lsgan": (
        lambda r, f: mean((r - 1) ** 2) / 2 + mean(f**2) / 2,
        lambda _, f: mean((f - 1) ** 2) / 2,
    ),
    "wgan": (lambda r, f: -(mean(r) - mean(f)), lambda _, f: -mean(f)),
    "wgan-gp": (lambda r, f: mean(f) - mean(r), lambda _, f: -mean(f)),
    "hinge": (
        lambda r, f: -mean(np.minimum(0, -1 + r)) - mean(np.minimum(0, -1 - f)),
        lambda _, f: -mean(f),
    ),
    "rpgan": (
        lambda r, f: mean(np.log(1 + np.exp(-(r - f)))),
        lambda r, f: mean(np.log(1 + np.exp(-(f - r)))),
    ),
}


def test_every_name_of_the_configuration_is_tested() -> None:
    known, _ = get_args(LossConfig.model_fields["name"].annotation)
    assert get_args(known) == NAMES == tuple(LOSSES)


@pytest.mark.parametrize("name", NAMES)
def test_both_sides_are_the_papers(name: Name) -> None:
    real, fake = logits()
    loss = build(LossConfig(name=name))
    discriminator, generator = (side(real.numpy(), fake.numpy()) for side in PAPERS[name])
    assert loss.discriminator(real, fake).item() == pytest.approx(discriminator, rel=1e-12)
    assert loss.generator(fake, real).item() == pytest.approx(generator, rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
def test_only_relativistic_generators_read_real_logits(name: Name) -> None:
    real, fake = logits()
    loss = build(LossConfig(name=name))
    assert loss.relativistic == (name == "rpgan")
    if loss.relativistic:
        with pytest.raises(ValueError, match="needs real logits"):
            loss.generator(fake, None)
    else:
        assert torch.equal(loss.generator(fake, real), loss.generator(fake, None))


def test_pairs_are_by_index() -> None:
    """Neither the order of the pairs nor a constant matters, but the pairing does."""
    loss = build(LossConfig(name="rpgan"))
    real, fake = logits()
    expected = loss.discriminator(real, fake).item()
    assert loss.discriminator(real.flip(0), fake.flip(0)).item() == pytest.approx(expected, rel=1e-13)
    assert loss.discriminator(real + 7, fake + 7).item() == pytest.approx(expected, rel=1e-13)
    assert loss.discriminator(real, fake.flip(0)).item() != pytest.approx(expected, rel=1e-3)
    for side in (loss.discriminator, loss.generator, loss.accuracy):
        with pytest.raises(ValueError, match=r"\(64,\) and \(1,\)|\(1,\) and \(64,\)"):
            side(real, fake[:1])


@pytest.mark.parametrize("name", NAMES)
def test_both_sides_are_minimised(name: Name) -> None:
    """A step down the gradient raises D on reals, lowers it on fakes, and raises it for the generator."""
    loss = build(LossConfig(name=name))
    # Between the targets, where every objective has a slope and lsgan does not overshoot.
    real, fake = (torch.sigmoid(values).requires_grad_() for values in logits())
    down_real, down_fake = torch.autograd.grad(-loss.discriminator(real, fake), [real, fake])
    assert (down_real > 0).all()
    assert (down_fake < 0).all()
    (down,) = torch.autograd.grad(-loss.generator(fake, real.detach()), [fake])
    assert (down > 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_undecided_discriminator(name: Name) -> None:
    loss = build(LossConfig(name=name))
    zeros = torch.zeros(8)
    discriminator, generator = {
        "minimax": (math.log(4), -math.log(2)),
        "nonsaturating": (math.log(4), math.log(2)),
        "lsgan": (0.5, 0.5),
        "hinge": (2.0, 0.0),
        "rpgan": (math.log(2), math.log(2)),
    }.get(name, (0.0, 0.0))
    assert loss.discriminator(zeros, zeros).item() == pytest.approx(discriminator, rel=1e-6)
    assert loss.generator(zeros, zeros).item() == pytest.approx(generator, rel=1e-6)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("extreme", [-1e30, -1e4, -100.0, 100.0, 1e4, 1e30])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_extreme_logits_stay_finite(name: Name, dtype: torch.dtype, extreme: float, smoothing: float) -> None:
    if name == "lsgan" and dtype == torch.float32:
        extreme = math.copysign(min(abs(extreme), 1e18), extreme)  # whose square float32 can hold
    loss = build(LossConfig(name=name, label_smoothing=smoothing))
    values = torch.full((4,), extreme, dtype=dtype, requires_grad=True)
    for scalar in (
        loss.discriminator(values, -values),
        loss.discriminator(values, values),
        loss.generator(values, -values),
        loss.generator(values, values),
    ):
        (gradient,) = torch.autograd.grad(scalar, [values])
        assert scalar.isfinite()
        assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["minimax", "nonsaturating", "rpgan"])
@pytest.mark.parametrize("extreme", [-1e30, -1e4, -100.0, 100.0, 1e4, 1e30])
def test_extreme_logits_cost_as_much_as_they_are_wrong(name: Name, extreme: float) -> None:
    values = torch.full((4,), extreme)
    confident = build(LossConfig(name=name)).discriminator(values, -values).item()
    assert confident == pytest.approx(-2 * min(extreme, 0.0), rel=1e-6, abs=1e-30)


@pytest.mark.parametrize("name", ["rpgan", "nonsaturating"])
def test_small_losses_keep_their_digits(name: Name) -> None:
    """Even where a numerically safe softplus cuts over to its asymptote."""
    loss = build(LossConfig(name=name))
    for margin in (19.0, 21.0, 30.0, 700.0):
        real = torch.tensor([margin], dtype=torch.float64)
        value = loss.discriminator(real, torch.full_like(real, 0.0 if name == "rpgan" else -margin)).item()
        count = 1 if name == "rpgan" else 2
        assert value == pytest.approx(count * math.log1p(math.exp(-margin)), rel=1e-12)
        wrong = loss.discriminator(-real, torch.full_like(real, 0.0 if name == "rpgan" else margin)).item()
        assert wrong == pytest.approx(count * (margin + math.log1p(math.exp(-margin))), rel=1e-15)


def test_only_the_saturating_loss_loses_its_gradient() -> None:
    expected = {
        "minimax": -math.exp(-50),
        "nonsaturating": -1.0,
        "lsgan": -51.0,
        "hinge": -1.0,
        "rpgan": -1.0,
    }
    for name in NAMES:
        fake = torch.full((1,), -50.0, dtype=torch.float64, requires_grad=True)
        loss = build(LossConfig(name=name)).generator(fake, torch.zeros_like(fake))
        (gradient,) = torch.autograd.grad(loss, [fake])
        assert gradient.item() == pytest.approx(expected.get(name, -1.0), rel=1e-12)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("scale", [1.0, 10.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_gradients(name: Name, scale: float, smoothing: float) -> None:
    loss = build(LossConfig(name=name, label_smoothing=smoothing))
    real, fake = (values.requires_grad_() for values in logits(8, scale))
    assert torch.autograd.gradcheck(loss.discriminator, (real, fake))
    if loss.relativistic:
        assert torch.autograd.gradcheck(loss.generator, (fake, real))
    else:
        assert torch.autograd.gradcheck(lambda values: loss.generator(values, None), (fake,))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_mean_of_equal_parts_is_the_whole(name: Name, smoothing: float) -> None:
    """What DDP relies on: the mean over workers' losses is the loss of the global batch."""
    loss = build(LossConfig(name=name, label_smoothing=smoothing))
    real, fake = logits()
    parts = list(zip(torch.split(real, 16), torch.split(fake, 16), strict=True))
    for whole, mine in (
        (loss.discriminator(real, fake), [loss.discriminator(r, f) for r, f in parts]),
        (loss.generator(fake, real), [loss.generator(f, r) for r, f in parts]),
        (loss.accuracy(real, fake)[0], [loss.accuracy(r, f)[0] for r, f in parts]),
        (loss.accuracy(real, fake)[1], [loss.accuracy(r, f)[1] for r, f in parts]),
    ):
        torch.testing.assert_close(torch.stack(mine).mean(), whole, rtol=1e-13, atol=0.0)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("smoothing", [0.1, 0.4])
def test_label_smoothing_is_the_closed_form(name: Name, smoothing: float) -> None:
    """-log sigmoid(-r) is r more than -log sigmoid(r): cross-entropy grows by s E[r].

    (r - 1 + s)^2 / 2 is s (r - 1) + s^2 / 2 more than (r - 1)^2 / 2. The generator and the other losses do
    not change.
    """
    real, fake = logits()
    plain, smooth = (build(LossConfig(name=name, label_smoothing=s)) for s in (0.0, smoothing))
    grows = {
        "minimax": smoothing * real.mean(),
        "nonsaturating": smoothing * real.mean(),
        "lsgan": smoothing * (real - 1).mean() + smoothing**2 / 2,
    }
    expected = plain.discriminator(real, fake) + grows.get(name, 0.0)
    torch.testing.assert_close(smooth.discriminator(real, fake), expected, rtol=1e-12, atol=0.0)
    assert torch.equal(smooth.generator(fake, real), plain.generator(fake, real))


@pytest.mark.parametrize("name", SMOOTHED)
def test_smoothed_reals_are_best_at_their_target(name: Name) -> None:
    smoothing = 0.1
    target = 1 - smoothing
    best = target if name == "lsgan" else math.log(target / smoothing)
    real = torch.full((4,), best, dtype=torch.float64, requires_grad=True)
    loss = build(LossConfig(name=name, label_smoothing=smoothing))
    (gradient,) = torch.autograd.grad(loss.discriminator(real, torch.zeros_like(real)), [real])
    assert gradient.abs().max().item() < 1e-15


@pytest.mark.parametrize("name", NAMES)
def test_accuracy(name: Name) -> None:
    real = torch.tensor([0.75, 0.25, -1.0, 2.0, 0.0], requires_grad=True)
    fake = torch.tensor([0.25, 0.75, -2.0, -3.0, 0.0], requires_grad=True)
    reals, fakes = build(LossConfig(name=name)).accuracy(real, fake)
    expected = {
        "minimax": (0.6, 0.4),
        "nonsaturating": (0.6, 0.4),
        "hinge": (0.6, 0.4),
        "lsgan": (0.4, 0.8),
    }.get(name, (0.6, 0.6))
    assert (reals.item(), fakes.item()) == pytest.approx(expected, rel=1e-6)
    assert reals.dtype == fakes.dtype == torch.float32
    assert not reals.requires_grad
    assert not fakes.requires_grad
