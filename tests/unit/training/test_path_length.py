from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from gan_dist.config import RunConfig, load_config
from gan_dist.core import rng
from gan_dist.core.errors import ConfigError
from gan_dist.data.batches.loader import Batch
from gan_dist.models.generator import ImageShape
from gan_dist.models.styled import StyledGenerator
from gan_dist.training.context import LocalContext
from gan_dist.training.noise import StepNoise, latents
from gan_dist.training.path_length import PathLengthPenalty, WithPathLengths
from gan_dist.training.state import TrainingState, new_state
from gan_dist.training.step import Step

BATCH, LATENT, EDGE = 8, 5, 8


def settings(*overrides: str) -> RunConfig:
    return load_config(
        "digits",
        [
            *("name=run", "storage=x", "seed=3", "train.precision=fp32", f"train.batch_size={BATCH}"),
            *("model.name=stylegan2", f"model.latent_dim={LATENT}", "model.width=4", "model.max_width=4"),
            *("model.settings.w_dim=6", "model.settings.mapping_layers=2", "loss.name=nonsaturating"),
            *("loss.path_length=2", *overrides),
        ],
    )


def fresh(config: RunConfig) -> TrainingState:
    state = new_state(
        config.model,
        config.optim,
        ImageShape(EDGE, 1),
        torch.device("cpu"),
        seed=config.seed,
        channels_last=False,
    )
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():  # else noise counts for nothing
        for parameter in state.generator.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return state


def styled(state: TrainingState) -> StyledGenerator:
    assert isinstance(state.generator, StyledGenerator)
    return state.generator


def batch(seed: int = 0) -> Batch:
    numbers = torch.Generator().manual_seed(seed)
    return Batch(torch.randint(0, 256, (BATCH, 1, EDGE, EDGE), dtype=torch.uint8, generator=numbers), None)


def round_of(step: Step, given: Batch) -> dict[str, float]:
    scalars = step.discriminator_phase(given) | step.generator_phase(given)
    return step.average_over_ranks(scalars, stop=False)[0]


def test_lengths_are_those_of_the_whole_jacobian_times_noise() -> None:
    generator = styled(fresh(settings()))
    given = torch.randn(3, LATENT, generator=torch.Generator().manual_seed(1))
    directions = torch.randn(3, 1, EDGE, EDGE, generator=torch.Generator().manual_seed(2))
    images, lengths = WithPathLengths(generator)(given, None, directions)
    assert torch.equal(images, generator(given))
    w = generator.map(given, None).detach()
    for image in range(3):

        def of_w(one: Tensor, image: int = image) -> Tensor:
            return generator.from_w(one[None], given[image : image + 1])[0]

        jacobian = torch.autograd.functional.jacobian(of_w, w[image])  # (C, R, R, L, w_dim)
        y = directions[image] / math.sqrt(EDGE * EDGE)
        by_layer = torch.einsum("chw,chwld->ld", y, jacobian)
        expected = by_layer.square().sum(1).mean().sqrt()
        torch.testing.assert_close(lengths[image], expected, rtol=1e-4, atol=1e-6)


def test_a_flat_generator_has_a_finite_gradient() -> None:
    generator = styled(fresh(settings()))
    with torch.no_grad():
        for parameter in generator.parameters():
            parameter.zero_()
    _, lengths = WithPathLengths(generator)(torch.ones(2, LATENT), None, torch.ones(2, 1, EDGE, EDGE))
    assert not lengths.any()
    lengths.sum().backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in generator.parameters())


@pytest.mark.parametrize("mixing", [0.0, 0.9])
def test_the_update_is_the_papers(mixing: float) -> None:
    """Three updates in plain PyTorch beside those of the step; the penalty is in the first and the third."""
    config = settings(f"model.settings.style_mixing={mixing}", "loss.path_length_every=2", "optim.g.lr=1e-3")
    state = fresh(config)
    step, mean = Step(config, state, LocalContext("unused")), 0.0
    for update in range(3):
        copied, clock = copy.deepcopy(styled(state)), state.images + BATCH
        found = round_of(step, batch(update))
        given = latents_by_hand(config, clock, copied.styles, mixing)
        w = copied.map(given, None)
        images = copied.from_w(w, given)
        state.discriminator.requires_grad_(False)
        loss = torch.nn.functional.softplus(-state.discriminator(images)).mean()
        state.discriminator.requires_grad_(True)
        if update != 1:
            y = rng.normal((BATCH, 1, EDGE, EDGE), config.seed, "path-g", clock) / EDGE
            (gradient,) = torch.autograd.grad((images * y).sum(), w, create_graph=True)
            lengths = gradient.square().sum(2).mean(1).sqrt()
            loss = loss + 2 * 2 * (lengths - mean).square().mean()
            mean += 0.01 * (lengths.mean().item() - mean)
        loss.backward()
        for name, parameter in copied.named_parameters():
            stepped = dict(state.generator.named_parameters())[name].grad
            assert parameter.grad is not None
            torch.testing.assert_close(stepped, parameter.grad, rtol=1e-3, atol=1e-5)
        assert found["loss_g"] == pytest.approx(loss.item(), rel=1e-4)
        assert found["path_length"] == state.path_length == pytest.approx(mean, rel=1e-4)


def latents_by_hand(config: RunConfig, clock: int, styles: int, mixing: float) -> Tensor:
    """The latents of a generator update by the names of their random numbers."""
    names = [f"{kind}latents-g" for kind in ("", "second-", "mixed-", "crossover-")]
    first, second = (rng.normal((BATCH, LATENT), config.seed, name, clock) for name in names[:2])
    if not mixing:
        return first
    mixed, place = (rng.uniform((BATCH,), config.seed, name, clock) for name in names[2:])
    rows = []
    for image in range(BATCH):
        point = 1 + int(place[image] * (styles - 1)) if mixed[image] < mixing else styles
        rows.append(torch.stack([first[image]] * point + [second[image]] * (styles - point)))
    return torch.stack(rows)


def test_styles_are_mixed_as_often_as_asked_and_at_every_place() -> None:
    config = settings("train.batch_size=4096")
    state = fresh(config)
    noise = StepNoise(config.seed, config.train, state, LocalContext("unused"))
    generator = styled(state)
    given = latents(noise, "latents-g", generator, 0)
    assert given.shape == (4096, generator.styles, LATENT)
    changes = (given[:, 1:] != given[:, :-1]).any(2)
    assert changes.sum(1).max() == 1
    counts = [int((changes.sum(1) == 0).sum()), *changes.sum(0).tolist()]
    expected = [0.1 * 4096, *[0.9 * 4096 / (generator.styles - 1)] * (generator.styles - 1)]
    for found, mean in zip(counts, expected, strict=True):
        assert abs(found - mean) < 5 * math.sqrt(mean)
    assert torch.equal(given[:, 0], noise.normal("latents-g", (LATENT,), 0))
    generator.style_mixing = 0.0
    assert torch.equal(latents(noise, "latents-g", generator, 0), given[:, 0])


@pytest.mark.parametrize(("every", "d_steps"), [(1, 1), (4, 1), (3, 2)])
def test_it_is_due_in_the_first_of_every_few_updates(every: int, d_steps: int) -> None:
    config = settings(f"loss.path_length_every={every}")
    state = fresh(config)
    noise = StepNoise(config.seed, config.train, state, LocalContext("unused"))
    penalty = PathLengthPenalty(config.loss, d_steps, state, noise)
    due = []
    for _ in range(2 * every):
        state.images += BATCH * d_steps
        due.append(penalty.due)
        assert (penalty.directions(0) is not None) == due[-1]
    assert due == [index % every == 0 for index in range(2 * every)]


def test_a_generator_without_w_is_refused() -> None:
    config = load_config("digits", ["name=run", "storage=x", "model.name=dcgan", "loss.path_length=2"])
    with pytest.raises(ConfigError, match=r"loss\.path_length regularises .* model\.name=dcgan has no w"):
        Step(config, fresh(config), LocalContext("unused"))
