from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.func import functional_call

from gan_dist.training.penalties import Critic, dragan, gradient_norms_sq, gradient_penalty, penalties_due

SHAPE = (8, 2, 3, 3)
SIZE = 18
STD = torch.tensor(0.7, dtype=torch.float64)
Penalty = Callable[[Critic, "Inputs", int], Tensor]


class Inputs:
    """Reals, fakes, noise (B, C, H, W) and mix (B,), float64 unless asked otherwise."""

    def __init__(self, dtype: torch.dtype = torch.float64) -> None:
        generator = torch.Generator().manual_seed(5)
        images = torch.randn(2, *SHAPE, generator=generator, dtype=torch.float64)
        # Of different contrast, so that the quadratic critic's gradients are of norms below and above 1.
        images *= torch.linspace(0.1, 2.5, SHAPE[0], dtype=torch.float64)[:, None, None, None]
        self.reals, self.fakes = images.to(dtype)
        self.noise = torch.rand(SHAPE, generator=generator, dtype=torch.float64).to(dtype)
        self.mix = torch.rand(SHAPE[0], generator=generator, dtype=torch.float64).to(dtype)

    def part(self, rows: slice) -> Inputs:
        part = Inputs()
        part.reals, part.fakes, part.noise, part.mix = (
            tensor[rows] for tensor in (self.reals, self.fakes, self.noise, self.mix)
        )
        return part


def zero_centred(critic: Critic, images: Tensor) -> Tensor:
    images = images.detach().requires_grad_()
    with torch.autocast("cpu", enabled=False):
        logits = critic(images)
    return gradient_norms_sq(logits, images).mean()


PENALTIES: dict[str, Penalty] = {
    "gp": lambda critic, x, pack: gradient_penalty(
        critic, x.reals, x.fakes, x.mix, one_sided=False, pack=pack
    ),
    "gp-one": lambda critic, x, pack: gradient_penalty(
        critic, x.reals, x.fakes, x.mix, one_sided=True, pack=pack
    ),
    "dragan": lambda critic, x, pack: dragan(critic, x.reals, x.noise, x.mix, STD.to(x.reals), pack=pack),
    "dragan-one": lambda critic, x, pack: dragan(
        critic, x.reals, x.noise, x.mix, STD.to(x.reals), one_sided=True, pack=pack
    ),
    "r1": lambda critic, x, _: zero_centred(critic, x.reals),
    "r2": lambda critic, x, _: zero_centred(critic, x.fakes),
}


def quadratic(pack: int = 1) -> tuple[Critic, npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """x'Ax/2 + b'x, whose gradient is Ax + b, on images or packs of them."""
    rng = np.random.default_rng(11)
    size = SIZE * pack
    a = rng.normal(size=(size, size)) * 1.3 / size
    a = (a + a.T) / 2
    b = rng.normal(size=size) * 0.1 / np.sqrt(size)
    weight, bias = torch.from_numpy(a), torch.from_numpy(b)

    def critic(images: Tensor) -> Tensor:
        flat = images.reshape(-1, size)
        return 0.5 * ((flat @ weight.to(flat)) * flat).sum(1) + flat @ bias.to(flat)

    return critic, a, b


def points(name: str, x: Inputs, pack: int) -> npt.NDArray[np.float64]:
    """Where a penalty looks, as its paper or its authors' code has it: (packs, numbers in a pack)."""
    reals, fakes, noise = (
        tensor.double().numpy().reshape(-1, SIZE * pack) for tensor in (x.reals, x.fakes, x.noise)
    )
    mix = x.mix.double().numpy()[::pack, np.newaxis]
    match name.split("-")[0]:
        case "gp":
            return np.asarray(mix * reals + (1 - mix) * fakes)
        case "dragan":
            perturbed = reals + 0.5 * STD.item() * noise
            return np.asarray(reals + mix * (perturbed - reals))
        case "r1":
            return reals
        case _:
            return fakes


@pytest.mark.parametrize("pack", [1, 2, 4])
@pytest.mark.parametrize("name", PENALTIES)
def test_penalty_is_the_papers(name: str, pack: int) -> None:
    critic, a, b = quadratic(pack)
    x = Inputs()
    gradients = points(name, x, pack) @ a + b
    norms = np.sqrt((gradients**2).sum(1))
    if name in ("r1", "r2"):
        expected = (gradients.reshape(-1, SIZE) ** 2).sum(1).mean()
    elif name.endswith("-one"):
        expected = (np.maximum(0, norms - 1) ** 2).mean()
    else:
        expected = ((norms - 1) ** 2).mean()
    assert norms.min() < 1 < norms.max()
    result = PENALTIES[name](critic, x, pack)
    assert result.shape == ()
    assert result.item() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("name", PENALTIES)
def test_float32_keeps_its_digits(name: str) -> None:
    critic, _, _ = quadratic()
    exact = PENALTIES[name](critic, Inputs(), 1).item()
    result = PENALTIES[name](critic, Inputs(torch.float32), 1)
    assert result.dtype == torch.float32
    assert result.item() == pytest.approx(exact, rel=1e-5)


class Small(nn.Module):
    """A smooth critic of a few dozen parameters, judging `pack` images together."""

    def __init__(self, pack: int = 1) -> None:
        super().__init__()
        self.pack = pack
        self.conv = nn.Conv2d(2 * pack, 3, 2)
        self.head = nn.Linear(12, 1)

    def forward(self, images: Tensor) -> Tensor:
        packed = images.reshape(-1, 2 * self.pack, 3, 3)
        logits: Tensor = self.head(torch.tanh(self.conv(packed)).flatten(1)).squeeze(1)
        return logits


def small(pack: int = 1, scale: float = 1.0) -> Small:
    with torch.random.fork_rng():
        torch.manual_seed(2)
        critic = Small(pack).double()
    with torch.no_grad():
        critic.head.weight *= scale
    return critic


@pytest.mark.parametrize("pack", [1, 2])
@pytest.mark.parametrize("name", PENALTIES)
def test_derivatives_with_respect_to_parameters(name: str, pack: int) -> None:
    # Norms well above 1, so that the one-sided ones are away from their kink.
    critic = small(pack, scale=6.0)
    names = [each for each, _ in critic.named_parameters()]
    values = tuple(value.detach().clone().requires_grad_() for value in critic.parameters())
    x = Inputs().part(slice(0, 4))

    def penalty(*parameters: Tensor) -> Tensor:
        weights = dict(zip(names, parameters, strict=True))
        return PENALTIES[name](lambda images: functional_call(critic, weights, (images,)), x, pack)

    assert penalty(*values).item() > 0.01
    # The last bias moves no gradient with respect to the images.
    assert torch.autograd.gradcheck(penalty, values)


@pytest.mark.parametrize("name", PENALTIES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_a_flat_critic_is_safe(name: str, dtype: torch.dtype) -> None:
    """A gradient of exactly zero has a norm whose derivative does not exist; it counts as zero."""
    critic = small(scale=0.0).to(dtype)
    penalty = PENALTIES[name](critic, Inputs(dtype), 1)
    assert penalty.item() == (1.0 if name in ("gp", "dragan") else 0.0)
    penalty.backward()
    gradients = [p.grad for p in critic.parameters() if p.grad is not None]
    assert len(gradients) == 3
    assert all(bool((gradient == 0).all()) for gradient in gradients)


@pytest.mark.parametrize("name", ["gp", "dragan"])
def test_a_point_without_slope_does_not_spoil_the_others(name: str) -> None:
    weight = torch.tensor(0.5, dtype=torch.float64, requires_grad=True)

    def critic(images: Tensor) -> Tensor:
        slopes = torch.arange(len(images), dtype=torch.float64)
        return weight * slopes * images.flatten(1).sum(1)

    penalty = PENALTIES[name](critic, Inputs(), 1)
    penalty.backward()
    norms = 0.5 * np.arange(8) * np.sqrt(SIZE)
    assert penalty.item() == pytest.approx(((norms - 1) ** 2).mean(), rel=1e-12)
    assert weight.grad is not None
    assert weight.grad.item() == pytest.approx((2 * (norms - 1) * norms / 0.5).mean(), rel=1e-12)


@pytest.mark.parametrize("pack", [1, 2])
@pytest.mark.parametrize("name", PENALTIES)
def test_mean_of_equal_parts_is_the_whole(name: str, pack: int) -> None:
    """What DDP relies on, for the penalty and for the gradient that it gives the parameters."""
    critic = small(pack, scale=6.0)
    parameters = list(critic.parameters())[:3]  # the last bias has no part in it
    x = Inputs()
    whole = PENALTIES[name](critic, x, pack)
    parts = torch.stack(
        [PENALTIES[name](critic, x.part(slice(at, at + 2)), pack) for at in range(0, 8, 2)]
    ).mean()
    torch.testing.assert_close(parts, whole, rtol=1e-13, atol=0.0)
    for mine, expected in zip(
        torch.autograd.grad(parts, parameters), torch.autograd.grad(whole, parameters), strict=True
    ):
        assert (mine - expected).norm() <= 1e-13 * expected.norm()


@pytest.mark.parametrize("name", PENALTIES)
def test_images_are_left_alone(name: str) -> None:
    x = Inputs()
    before = [tensor.clone() for tensor in (x.reals, x.fakes, x.noise, x.mix)]
    x.reals.requires_grad_()
    x.fakes.requires_grad_()
    critic = small()
    PENALTIES[name](critic, x, 1).backward()
    assert x.reals.grad is None
    assert x.fakes.grad is None
    for tensor, copy in zip((x.reals, x.fakes, x.noise, x.mix), before, strict=True):
        assert torch.equal(tensor, copy)


def test_the_forward_pass_can_be_shared() -> None:
    critic = small()
    images = Inputs().reals.requires_grad_()
    logits = critic(images)
    (logits.mean() + gradient_norms_sq(logits, images).mean()).backward()
    alone = small()
    (alone(images.detach()).mean() + zero_centred(alone, images)).backward()
    for shared, apart in zip(critic.parameters(), alone.parameters(), strict=True):
        assert shared.grad is not None
        assert apart.grad is not None
        assert (shared.grad - apart.grad).norm() <= 1e-13 * apart.grad.norm()


@pytest.mark.parametrize("name", PENALTIES)
def test_mixed_precision_is_switched_off(name: str) -> None:
    critic = small(scale=6.0).float()
    x = Inputs(torch.float32)
    expected = PENALTIES[name](critic, x, 1)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert critic(x.reals).dtype == torch.bfloat16
        result = PENALTIES[name](critic, x, 1)
    assert result.dtype == torch.float32
    assert torch.equal(result, expected)


def test_ends_of_the_line() -> None:
    critic, _, _ = quadratic()
    x = Inputs()
    for value, images in ((0.0, x.fakes), (1.0, x.reals)):
        x.mix = torch.full_like(x.mix, value)
        on_line = gradient_penalty(critic, x.reals, x.fakes, x.mix, one_sided=False)
        there = gradient_penalty(critic, images, images, x.mix, one_sided=False)
        assert on_line.item() == pytest.approx(there.item(), rel=1e-13)


def test_a_batch_that_is_not_whole_packs_is_refused() -> None:
    x = Inputs().part(slice(0, 3))
    with pytest.raises(RuntimeError):
        gradient_penalty(
            lambda images: images.flatten(1).sum(1), x.reals, x.fakes, x.mix, one_sided=False, pack=2
        )


@pytest.mark.parametrize("every", [1, 2, 4, 16])
@pytest.mark.parametrize("batch", [1, 64, 96])
@pytest.mark.parametrize("start", [0, 5])
def test_lazy_penalties_weigh_as_much(every: int, batch: int, start: int) -> None:
    """Over `every` updates in a row, from any of them on, the weights add up to those of every update."""
    starts = [batch * (start + update) for update in range(every)]
    assert sum(every * penalties_due(images_seen, batch, every) for images_seen in starts) == every
    assert penalties_due(0, batch, every)


def test_lazy_penalties_have_the_mean_gradient() -> None:
    """At the same weights, the mean over a cycle's updates is the gradient of a penalty each time."""
    critic = small(scale=6.0)
    parameters = list(critic.parameters())[:3]
    every, batch = 4, 8
    plain = torch.autograd.grad(PENALTIES["r1"](critic, Inputs(), 1), parameters)
    totals = [torch.zeros_like(each) for each in plain]
    for update in range(every):
        if penalties_due(update * batch, batch, every):
            lazy = torch.autograd.grad(every * PENALTIES["r1"](critic, Inputs(), 1), parameters)
            totals = [total + each / every for total, each in zip(totals, lazy, strict=True)]
    for total, expected in zip(totals, plain, strict=True):
        assert (total - expected).norm() <= 1e-13 * expected.norm()
