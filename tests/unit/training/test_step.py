"""Every loss, penalty and augmentation: the same on one worker and on two, in one portion and in several."""

from __future__ import annotations

import itertools
import os
import shutil
import sys
import sysconfig
from collections.abc import Iterable
from functools import cache, partialmethod
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook
from torch.nn.functional import normalize
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from gan_dist.config import RunConfig, load_config
from gan_dist.config.loss_defaults import LOSS_DEFAULTS
from gan_dist.core.errors import ConfigError
from gan_dist.data.batches.loader import Batch
from gan_dist.models.generator import ImageShape
from gan_dist.training.augment import ada
from gan_dist.training.context import LocalContext
from gan_dist.training.precision import PrecisionPolicy, has_bf16, tune_process
from gan_dist.training.schedule import augment_p, betas, instance_noise, penalty_factor, rate_factor
from gan_dist.training.state import TrainingState, new_state
from gan_dist.training.step import Step
from tests.support.gloo import run_gloo

SMALL = [
    *("data.resolution=16", "model.name=dcgan", "model.max_width=null", "loss.name=nonsaturating"),
    *("model.width=4", "model.latent_dim=8", "train.batch_size=16", "train.precision=fp32", "storage=x"),
]
CPU = torch.device("cpu")
STYLED = ["model.name=stylegan2", "model.settings.w_dim=8", "loss.path_length=2"]
NORMALISED = ["model.name=resnet", "model.spectral_norm=true"]

PENALTIES = {
    "none": ["loss.gp=0", "loss.r1=0", "loss.r2=0"],
    "gp": ["loss.gp=3"],
    "gp one-sided": ["loss.gp=3", "loss.gp_sides=one"],
    "dragan": ["loss.dragan=3"],
    "r1": ["loss.r1=2"],
    "r1 and r2": ["loss.r1=2", "loss.r2=1"],
    "all, lazily": ["loss.r1=2", "loss.r2=1", "loss.gp=1", "loss.dragan=1", "loss.penalty_every=2"],
}
OTHERS = {
    "conditional": ["model.conditional=true"],
    "packed": ["model.pack=2"],
    "packed and penalised": ["model.pack=2", "loss.gp=2", "loss.r1=1"],
    "resnet": [*NORMALISED, "loss.name=hinge"],
    "resnet, conditional": ["model.name=resnet", "model.conditional=true", "loss.name=wgan-gp"],
    "r3gan": ["model.name=r3gan", "model.width=16", "loss.name=rpgan"],
    "r3gan, conditional, ada": [
        *("model.name=r3gan", "model.width=16", "model.conditional=true", "loss.name=rpgan"),
        "data.augment=ada",
    ],
    "stylegan2": [*STYLED, "loss.path_length_every=1", "loss.r1=1"],
    "stylegan2, conditional, packed, lazily": [
        *(*STYLED, "model.conditional=true", "model.pack=2", "model.stddev_group=2", "loss.r1=1"),
        *("loss.path_length_every=2", "loss.penalty_every=2", "data.augment=ada"),
    ],
    "fastgan": ["model.name=fastgan", "loss.name=lsgan", "data.augment=diffaugment"],
    "fastgan, penalised, packed": [
        *("model.name=fastgan", "loss.r1=1", "loss.gp=1", "model.pack=2"),
        "loss.label_smoothing=0.2",  # reals and fakes, which are alike at first, do not cancel
    ],
    "mirrored": ["data.mirror=true", "loss.name=rpgan", "loss.r1=1"],
    "instance noise": ["loss.instance_noise=0.3"],
    "smoothed labels": ["loss.label_smoothing=0.1"],
    "cut gradients": ["optim.clip_norm=0.01"],
    "all schedules": [
        *("optim.schedule=cosine", "optim.decay_kimg=0.05", "optim.end_factor=0.2", "data.augment=ada"),
        *("data.augment_p=0.8", "loss.r1=2", "loss.gp=1", "loss.penalty_end_factor=0.1"),
        *("optim.g.beta2_start=0.5", "optim.d.beta2_start=0.6"),
    ],
    "a pipeline": [
        *("data.augment={ada: {blit: 1, geom: 1, color: 0.5, filter: 1, noise: 1, cutout: 1}}", "loss.r1=2"),
    ],
    "a policy": ["data.augment={diffaugment: [translation, cutout]}"],
    "contiguous": ["train.channels_last=false"],
}


def settings(*overrides: str) -> RunConfig:
    return load_config("digits", ["name=run", *SMALL, *overrides])


AUGMENTATIONS = ("none", "diffaugment", "ada")


@cache
def combinations() -> dict[str, RunConfig]:
    """Every loss x penalty x augmentation that is no contradiction, and what else a step can do."""
    found = {}
    for loss, penalty, kind in itertools.product(LOSS_DEFAULTS, PENALTIES, AUGMENTATIONS):
        if loss == "wgan" and ("gp" in penalty or "dragan" in penalty or "all" in penalty):
            continue  # its clipping contradicts them
        if loss == "wgan-gp" and penalty == "none":
            continue
        overrides = [f"loss.name={loss}", f"data.augment={kind}", *PENALTIES[penalty]]
        found[f"{loss}, {penalty}, {kind}"] = settings(*overrides)
    return found | {name: settings(*overrides) for name, overrides in OTHERS.items()}


def pairs() -> list[str]:
    """Names of combinations in which every two of a loss, a penalty and an augmentation meet; and others."""
    indices = itertools.product(enumerate(LOSS_DEFAULTS), enumerate(PENALTIES))
    names = [f"{loss}, {penalty}, {AUGMENTATIONS[(i + j) % 3]}" for (i, loss), (j, penalty) in indices]
    return [name for name in [*names, *OTHERS] if name in combinations()]


def policy(config: RunConfig, device: torch.device, *, synchronised: bool = False) -> PrecisionPolicy:
    return PrecisionPolicy.of(
        config.train, device, penalised=config.loss.differentiated_twice, synchronised=synchronised
    )


def batches(count: int = 3) -> list[Batch]:
    generator = torch.Generator().manual_seed(1)
    images = torch.randint(0, 256, (count, 16, 1, 16, 16), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 10, (count, 16), generator=generator)
    return [Batch(*pair) for pair in zip(images, labels, strict=True)]


def fresh(config: RunConfig) -> TrainingState:
    shape = ImageShape(16, 1, 10 if config.model.conditional else 0)
    state = new_state(
        config.model, config.optim, shape, CPU, seed=config.seed, channels_last=config.train.channels_last
    )
    # Batch normalisation by fixed statistics: nothing couples the images of a batch.
    state.generator.eval()
    state.discriminator.eval()
    state.augment.p = 0.7
    return state


def take_steps(config: RunConfig, state: TrainingState, given: list[Batch]) -> dict[str, torch.Tensor]:
    """Take steps on this rank's part of each batch; return the first gradients and the last weights."""
    context = LocalContext("unused")
    step = Step(config, state, context)
    world, rank = context.world_size, context.rank
    networks = {"d": state.discriminator, "g": state.generator}
    found = {}
    for number, batch in enumerate(given):
        assert batch.labels is not None
        mine = Batch(batch.images.chunk(world)[rank], batch.labels.chunk(world)[rank])
        step.average_over_ranks(step.discriminator_phase(mine) | step.generator_phase(mine), stop=False)
        step.update_average()
        for name, network in networks.items() if number == 0 else ():
            missing = [key for key, p in network.named_parameters() if p.grad is None]
            assert not missing, (config, name, missing)
            gradients = [p.grad.flatten() for p in network.parameters() if p.grad is not None]
            found[f"{name}.gradient"] = torch.cat(gradients)
    for name, network in networks.items():
        found[f"{name}.weights"] = torch.cat([p.detach().flatten() for p in network.parameters()])
    return found


def outcomes(configs: dict[str, RunConfig], accumulate: int) -> dict[str, dict[str, torch.Tensor]]:
    """Return, for each configuration, the gradients of a first step and the weights after two."""
    torch.set_num_threads(1)
    found = {}
    for name, config in configs.items():
        train = config.train.model_copy(update={"accumulate": accumulate})
        portioned = config.model_copy(update={"train": train})
        found[name] = take_steps(portioned, fresh(portioned), batches(2))
    return found


def outcomes_of_ranks(
    both: dict[str, RunConfig], each: dict[str, RunConfig]
) -> tuple[dict[str, dict[str, torch.Tensor]], ...]:
    """Outcomes of configurations in two portions on every rank, and of others in one."""
    return outcomes(both, 2), outcomes(each, 1)


def start(config: RunConfig) -> dict[str, torch.Tensor]:
    state = fresh(config)
    networks = {"d": state.discriminator, "g": state.generator}
    return {k: torch.cat([p.detach().flatten() for p in n.parameters()]) for k, n in networks.items()}


def worst(
    one: dict[str, dict[str, torch.Tensor]], other: dict[str, dict[str, torch.Tensor]]
) -> dict[str, float]:
    """Return the relative errors that are too large: gradients, and how far the weights have moved."""
    assert one.keys() == other.keys()
    errors = {}
    for name, expected in one.items():
        begun = start(combinations()[name])
        for key, value in expected.items():
            scale = (value - begun[key[0]]).norm() if "weights" in key else value.norm()
            errors[f"{name}: {key}"] = float((other[name][key] - value).norm() / scale)
    return {k: e for k, e in errors.items() if not e <= (3e-2 if "weights" in k else 1e-4)}


@cache
def alone(name: str) -> dict[str, torch.Tensor]:
    """Outcome of a combination on one worker, in one portion."""
    return outcomes({name: combinations()[name]}, 1)[name]


def test_pairs_are_those_of_all_combinations() -> None:
    def met(names: Iterable[str]) -> set[tuple[str, ...]]:
        parts = [name.rsplit(", ", 1) for name in names if name not in OTHERS]
        triples = [(*loss_and_penalty.split(", ", 1), kind) for loss_and_penalty, kind in parts]
        return {pair for triple in triples for pair in itertools.combinations(triple, 2)}

    assert met(pairs()) == met(combinations())


@pytest.mark.parametrize("whole", [False, pytest.param(True, marks=pytest.mark.soak)])
def test_two_workers_and_portions_do_what_the_whole_batch_does(whole: bool) -> None:
    """Two workers that accumulate, with every pair; each by itself, with some."""
    names = [*combinations()] if whole else pairs()
    assert len(names) > (120 if whole else 50)
    both = {name: combinations()[name] for name in names}
    each = both if whole else {name: combinations()[name] for name in names[::4]}
    for name in names:
        begun = start(combinations()[name])
        for network in ("d", "g"):
            moved = alone(name)[f"{network}.weights"]
            assert moved.isfinite().all(), name
            assert not torch.equal(moved, begun[network]), name
    expected = {name: alone(name) for name in each}
    for in_portions, at_once in run_gloo(outcomes_of_ranks, 2, both, each, timeout_s=600):
        assert worst({name: alone(name) for name in both}, in_portions) == {}
        assert worst(expected, at_once) == {}
    assert worst(expected, outcomes(each, 4)) == {}


@pytest.mark.parametrize("loss", [["loss.name=hinge"], ["loss.name=rpgan", "loss.gp=2"]])
def test_portions_are_judged_by_the_same_normalised_weights(loss: list[str]) -> None:
    """Spectral normalisation makes one power iteration a phase, however many passes a phase has."""
    found = []
    for portions in (1, 4):
        config = settings(*NORMALISED, *loss, f"train.accumulate={portions}")
        state = fresh(config)
        state.discriminator.train()  # it has no batch normalisation
        found.append(take_steps(config, state, batches(1)))
    for key in ("d.gradient", "g.gradient"):
        assert (found[1][key] - found[0][key]).norm() / found[0][key].norm() < 1e-3, key


def test_normalised_weights_make_one_power_iteration_in_each_phase() -> None:
    config = settings(*NORMALISED, "loss.name=rpgan", "loss.gp=2", "train.accumulate=2")
    state = fresh(config)
    state.discriminator.train()
    step = Step(config, state, LocalContext("unused"))
    kept = state.discriminator.state_dict()
    weight, v = (kept[f"blocks.1.conv1.parametrizations.weight.{name}"] for name in ("original", "0._v"))
    (batch,) = batches(1)
    for phase in (step.discriminator_phase, step.generator_phase):
        matrix = weight.flatten(1)
        expected = normalize(matrix.T @ normalize(matrix @ v, dim=0), dim=0)
        phase(batch)
        torch.testing.assert_close(v, expected)


def _counted(indices, bucket):  # type: ignore[no-untyped-def]  # DDP refuses annotations that are text
    indices.append(bucket.index())
    return allreduce_hook(None, bucket)  # type: ignore[arg-type]


def _reductions(configs: list[RunConfig]) -> list[tuple[int, int]]:
    """Return how many times the ranks exchange gradients in a discriminator and in a generator phase."""
    torch.set_num_threads(1)
    found = []
    for config in configs:
        step = Step(config, fresh(config), LocalContext("unused"))
        of_d, of_g = list[int](), list[int]()
        for network, indices in ((step._discriminator, of_d), (step._generator, of_g)):
            assert isinstance(network, DistributedDataParallel)
            network.register_comm_hook(indices, _counted)
        batch = Batch(batches(1)[0].images[:8], None)
        step.discriminator_phase(batch)
        assert not of_g
        step.generator_phase(batch)
        found.append((len(of_d), len(of_g)))
    return found


def test_ranks_exchange_gradients_once_a_phase_however_many_portions_it_has() -> None:
    configs = [settings(f"train.accumulate={k}", *p) for k in (1, 4) for p in PENALTIES.values()]
    for found in run_gloo(_reductions, 2, configs):
        assert found == [(1, 1)] * len(configs)


@pytest.mark.parametrize("penalty", PENALTIES)
def test_penalties_see_the_discriminator_in_float32(penalty: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Under bfloat16 what is differentiated twice is a float32 pass; the others are not."""
    monkeypatch.setattr("gan_dist.training.precision.has_bf16", lambda _: True)
    config = settings("model.name=resnet", "loss.name=nonsaturating", *PENALTIES[penalty])
    config = config.model_copy(update={"train": config.train.model_copy(update={"precision": "bf16"})})
    state = fresh(config)
    step = Step(config, state, LocalContext("unused"))
    seen: list[torch.dtype] = []
    convolution = next(layer for layer in state.discriminator.modules() if isinstance(layer, nn.Conv2d))
    convolution.register_forward_hook(lambda *call: seen.append(call[-1].dtype))
    (batch,) = batches(1)
    expected = {
        "none": [torch.bfloat16],
        "gp": [torch.bfloat16, torch.float32],
        "gp one-sided": [torch.bfloat16, torch.float32],
        "dragan": [torch.bfloat16, torch.float32],
        "r1": [torch.float32] * 2,  # reals and fakes apart
        "r1 and r2": [torch.float32],
        "all, lazily": [torch.float32] * 3,
    }
    step.discriminator_phase(batch)
    assert seen == expected[penalty]
    seen.clear()
    step.generator_phase(batch)
    assert seen == [torch.bfloat16]


def stepped(config: RunConfig, count: int = 1) -> TrainingState:
    state = fresh(config)
    take_steps(config, state, batches(count))
    return state


def test_penalties_act_in_one_of_k_updates_and_count_k_times() -> None:
    """On the first of two updates a lazy penalty doubles; on the second there is none."""
    plain, every = settings("loss.r1=0"), settings("loss.r1=2")
    lazy = settings("loss.r1=2", "loss.penalty_every=2")

    def gradient(config: RunConfig, clock: int) -> torch.Tensor:
        state = fresh(config)
        state.images = clock
        return take_steps(config, state, batches(1))["d.gradient"]

    for clock, factor in ((0, 2), (16, 0), (32, 2), (48, 0)):
        penalty = gradient(every, clock) - gradient(plain, clock)
        found = gradient(lazy, clock) - gradient(plain, clock)
        assert penalty.norm() > 0
        torch.testing.assert_close(found, factor * penalty, rtol=1e-3, atol=1e-5)


def test_clipped_weights_stay_within_the_limit() -> None:
    state = stepped(settings("loss.name=wgan"))
    largest = max(p.abs().max().item() for p in state.discriminator.parameters())
    assert largest == pytest.approx(0.01, rel=1e-6)
    assert max(p.abs().max().item() for p in state.generator.parameters()) > 0.01


def test_cut_gradients_have_the_norm_that_is_asked_for() -> None:
    config = settings("optim.clip_norm=0.001")
    found = take_steps(config, fresh(config), batches(1))
    assert found["d.gradient"].norm().item() == pytest.approx(0.001, rel=1e-3)
    assert found["g.gradient"].norm() <= 0.001


def test_the_error_of_reconstruction_is_a_term_of_its_own_with_a_weight() -> None:
    def scalars(weight: float) -> dict[str, torch.Tensor]:
        config = settings("model.name=fastgan", "loss.name=hinge", f"model.settings.reconstruction={weight}")
        return Step(config, fresh(config), LocalContext("unused")).discriminator_phase(batches(1)[0])

    once, twice, never = (scalars(weight) for weight in (1, 2, 0))
    error = once["loss_reconstruction"]
    assert 0 < error == twice["loss_reconstruction"]
    torch.testing.assert_close(twice["loss_d"] - once["loss_d"], error)
    torch.testing.assert_close(once["loss_d"] - never["loss_d"], error)
    assert "loss_reconstruction" not in never


def test_the_discriminator_learns_only_in_its_own_phase() -> None:
    config = settings()
    state = fresh(config)
    step = Step(config, state, LocalContext("unused"))
    (batch,) = batches(1)
    step.discriminator_phase(batch)
    kept = [p.detach().clone() for p in state.discriminator.parameters()]
    gradients = [p.grad.clone() for p in state.discriminator.parameters() if p.grad is not None]
    step.generator_phase(batch)
    assert all(torch.equal(a, b) for a, b in zip(kept, state.discriminator.parameters(), strict=True))
    now = [p.grad for p in state.discriminator.parameters() if p.grad is not None]
    assert all(torch.equal(a, b) for a, b in zip(gradients, now, strict=True))
    assert all(p.requires_grad for p in state.discriminator.parameters())


WISHES = list(itertools.product((False, True), repeat=3))
"""Of three ranks: whether each wants to stop."""


def _shared_wishes() -> list[bool]:
    config = settings("train.batch_size=18")
    context = LocalContext("unused")
    step = Step(config, fresh(config), context)
    scalars = {"loss_d": torch.zeros(())}
    return [step.average_over_ranks(scalars, stop=wishes[context.rank])[1] for wishes in WISHES]


def test_one_rank_that_wants_to_stop_stops_all() -> None:
    expected = [any(wishes) for wishes in WISHES]
    assert run_gloo(_shared_wishes, 3) == [expected] * 3


def test_the_strength_of_ada_follows_the_signs_of_four_rounds() -> None:
    config = settings("data.augment=ada", "data.augment_kimg=1")
    state = fresh(config)
    step = Step(config, state, LocalContext("unused"))
    expected, signs = state.augment.p, []
    for number, batch in enumerate(batches(12), start=1):
        scalars = step.discriminator_phase(batch) | step.generator_phase(batch)
        told, *_ = step.average_over_ranks(scalars, stop=False)
        signs.append(2 * told["real_accuracy"] - 1)
        if number % 4 == 0:
            expected = ada.adjusted(expected, sum(signs[-4:]) / 4, 4 * 16, kimg=1)
        assert state.augment.p == pytest.approx(expected)
    assert state.augment.p != 0.7


@pytest.mark.parametrize(
    ("loss", "expected"),
    [("nonsaturating", [0.636, 0.764]), ("lsgan", [0.636, 0.764]), ("rpgan", [0.7, 0.7])],
)
def test_ada_reads_logits_on_the_scale_of_the_loss(loss: str, expected: list[float]) -> None:
    # A constant added to all logits makes a discriminator sure of everything, or of nothing; only where the
    # loss compares reals with fakes it changes nothing.
    config = settings("data.augment=ada", "data.augment_kimg=1", f"loss.name={loss}")
    found = []
    for constant in (-30.0, 30.0):
        state = fresh(config)
        state.discriminator.register_forward_hook(lambda *call, c=constant: call[-1] + c)
        step = Step(config, state, LocalContext("unused"))
        for batch in batches(4):
            step.average_over_ranks(step.discriminator_phase(batch) | step.generator_phase(batch), stop=False)
        found.append(state.augment.p)
    assert (found[0] == found[1]) == (loss == "rpgan")
    if loss != "rpgan":
        assert found == pytest.approx(expected)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [("constant", [1, 1, 1, 1]), ("linear", [1, 0.75, 0, 0]), ("cosine", [1, 0.853553, 0, 0])],
)
def test_schedules_are_functions_of_the_clock(schedule: str, expected: list[float]) -> None:
    optim = settings(f"optim.schedule={schedule}", "optim.decay_kimg=2").optim
    assert [rate_factor(optim, images) for images in (0, 500, 2000, 9999)] == pytest.approx(
        expected, abs=1e-6
    )


@pytest.mark.parametrize(
    ("schedule", "left"), [("linear", [1, 0.75, 0.5, 0, 0]), ("cosine", [1, 0.8535534, 0.5, 0, 0])]
)
def test_all_that_is_scheduled_goes_from_its_start_to_its_end(schedule: str, left: list[float]) -> None:
    config = settings(
        *(f"optim.schedule={schedule}", "optim.decay_kimg=2", "optim.end_factor=0.25"),
        *("loss.r1=1", "loss.penalty_end_factor=3", "data.augment=ada", "data.augment_p=0.6"),
        *("optim.g.beta1=0.1", "optim.g.beta2_start=0.9", "optim.g.beta2=0.99", "optim.d.beta2=0.7"),
    )
    optim = config.optim
    for images, share in zip((0, 500, 1000, 2000, 9999), left, strict=True):
        assert rate_factor(optim, images) == pytest.approx(0.25 + 0.75 * share)
        assert penalty_factor(config.loss, optim, images) == pytest.approx(3 - 2 * share)
        assert betas(optim.g, optim, images) == pytest.approx((0.1, 0.99 - 0.09 * share))
        assert betas(optim.d, optim, images) == (0.5, 0.7)
        assert augment_p(config.data, config.optim, 0.4, images) == pytest.approx(0.6 - 0.6 * share)
    # Both ends are the numbers that were given, to the last bit.
    assert (rate_factor(optim, 0), rate_factor(optim, 2000), penalty_factor(config.loss, optim, 0)) == (
        1,
        0.25,
        1,
    )
    assert (betas(optim.g, optim, 0), betas(optim.g, optim, 2000)) == ((0.1, 0.9), (0.1, 0.99))


def test_without_a_schedule_a_given_probability_is_there_at_once() -> None:
    for given, expected in ((["data.augment_p=0.6"], 0.6), ([], 0.4)):
        config = settings("data.augment=ada", *given)
        assert augment_p(config.data, config.optim, 0.4, 0) == expected


def test_adam_has_the_decay_of_the_moment_and_corrects_for_it() -> None:
    """Every update against the formulas of Kingma and Ba 2015, algorithm 1, with a beta2 that rises."""
    config = settings(
        *("optim.schedule=linear", "optim.decay_kimg=0.08", "optim.end_factor=1"),
        *("optim.d.beta2_start=0.5", "optim.d.beta2=0.9", "optim.d.beta1=0.3", "optim.d.lr=0.001"),
    )
    state = fresh(config)
    step = Step(config, state, LocalContext("unused"))
    weights = list(state.discriminator.parameters())
    first, second = ([torch.zeros(p.shape, dtype=torch.float64) for p in weights] for _ in range(2))
    for number, beta2 in enumerate((0.5, 0.58, 0.66, 0.74, 0.82, 0.9, 0.9), start=1):
        before = [p.detach().double() for p in weights]
        step.discriminator_phase(batches(1)[0])
        for p, old, m, v in zip(weights, before, first, second, strict=True):
            assert p.grad is not None
            gradient = p.grad.double()
            m.mul_(0.3).add_(0.7 * gradient)
            v.mul_(beta2).add_((1 - beta2) * gradient.square())
            root = (v / (1 - beta2**number)).sqrt() + 1e-8
            moved = -0.001 * m / (1 - 0.3**number) / root
            torch.testing.assert_close(p.detach().double() - old, moved, rtol=1e-3, atol=1e-7)


def test_the_controller_leaves_a_given_probability_alone() -> None:
    config = settings("data.augment=ada", "data.augment_p=0.6")
    state = stepped(config, 5)
    assert (state.augment.p, state.augment.signs, state.augment.rounds) == (0.7, 0, 0)
    # It is the given one by which images are shown, not the state's.
    same = fresh(config)
    same.augment.p = 0.1
    take_steps(config, same, batches(5))
    pairs = zip(state.discriminator.parameters(), same.discriminator.parameters(), strict=True)
    assert all(torch.equal(a, b) for a, b in pairs)


def test_instance_noise_falls_to_nothing() -> None:
    loss = settings("loss.instance_noise=0.5", "loss.instance_noise_kimg=2").loss
    assert [instance_noise(loss, images) for images in (0, 500, 2000, 9999)] == [0.5, 0.375, 0, 0]


def test_bf16_moves_the_networks_nearly_as_float32_does() -> None:
    if not has_bf16(CPU):
        with pytest.raises(ConfigError, match=r"train\.precision=bf16: this machine's cpu does not compute"):
            policy(settings("train.precision=bf16"), CPU)
        return
    exact, rounded = settings(), settings("train.precision=bf16")
    a, b = (take_steps(config, fresh(config), batches(1)) for config in (exact, rounded))
    for key in ("d.gradient", "g.gradient"):
        assert 0 < (a[key] - b[key]).norm() / a[key].norm() < 0.1
    # Where a penalty acts the discriminator's pass is float32.
    a, b = (
        take_steps(config, fresh(config), batches(1))
        for config in (settings("loss.r1=1"), settings("loss.r1=1", "train.precision=bf16"))
    )
    fakes_are_bf16 = (a["d.gradient"] - b["d.gradient"]).norm() / a["d.gradient"].norm()
    assert fakes_are_bf16 < 0.1


def test_what_cannot_be_compiled_is_refused() -> None:
    with pytest.raises(ConfigError, match="cannot be differentiated twice"):
        policy(settings("train.compile=always", "loss.r1=1"), CPU)
    assert not policy(settings(), CPU).compiled
    assert policy(settings("train.compile=always"), CPU).compiled


def test_gpus_compile_by_themselves_only_what_can_be_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gpu, capability = torch.device("cuda"), (8, 9)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _: capability)
    monkeypatch.setattr(sysconfig, "get_path", lambda _: str(tmp_path))
    monkeypatch.setenv("CC", "gcc")
    plain, always = settings(), settings("train.compile=always")
    assert not policy(plain, gpu).compiled  # there are no headers
    (tmp_path / "Python.h").touch()
    assert policy(plain, gpu).compiled
    assert policy(always, gpu, synchronised=True).compiled
    assert not policy(plain, gpu, synchronised=True).compiled
    assert not policy(settings("loss.r1=1"), gpu).compiled
    capability = (6, 1)
    assert not policy(plain, gpu).compiled
    capability = (7, 0)
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    assert not policy(plain, gpu).compiled
    with pytest.raises(ConfigError, match=r"train\.compile=always: .* gcc python3-dev"):
        policy(always, gpu)


class Gpu:
    """What a step asks of one of two processes with a GPU each, while it is set up."""

    device = torch.device("cuda")
    rank, world_size = 0, 2


@pytest.mark.parametrize("penalty", PENALTIES)
def test_on_gpus_batches_are_normalised_together_but_where_slopes_are_penalised(
    penalty: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gan_dist.training.ddp.DistributedDataParallel", lambda network, **_: network)
    monkeypatch.setattr("gan_dist.training.ddp._settle_buckets", lambda _: None)
    config = settings(*PENALTIES[penalty])
    state = fresh(config)
    state.generator.train()
    state.discriminator.train()
    step = Step(config, state, Gpu())  # type: ignore[arg-type]
    kinds = []
    for network in (step._generator, step._discriminator):
        kinds.append({type(layer) for layer in network.modules() if isinstance(layer, _BatchNorm)})
    assert kinds == [{nn.SyncBatchNorm}, {nn.SyncBatchNorm if penalty == "none" else nn.BatchNorm2d}]


COMPILED_BY = [
    "aot_eager",  # captures and differentiates graphs as the default does, without a minute of g++
    pytest.param(
        "inductor",
        marks=[
            pytest.mark.soak,
            pytest.mark.skipif(shutil.which("g++") is None, reason="compiling for a CPU needs g++"),
        ],
    ),
]


@pytest.mark.slow
@pytest.mark.parametrize("backend", COMPILED_BY)
@pytest.mark.filterwarnings("ignore")
def test_compiled_networks_do_what_plain_ones_do(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    compiled_by = partialmethod(nn.Module.compile, backend=backend)
    monkeypatch.setattr(nn.Module, "compile", compiled_by)
    plain, compiled = settings(), settings("train.compile=always")
    state = fresh(compiled)
    expected, found = take_steps(plain, fresh(plain), batches(2)), take_steps(compiled, state, batches(2))
    assert state.generator._compiled_call_impl is not None
    for key, value in expected.items():
        assert (found[key] - value).norm() / value.norm() < 1e-4, key


def test_gpus_are_told_to_repeat_their_sums(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", False)
    precision = torch.get_float32_matmul_precision()
    try:
        for given, told in ((None, ":4096:8"), (":16:8", ":16:8")):
            monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", given or "")
            if given is None:
                monkeypatch.delenv("CUBLAS_WORKSPACE_CONFIG")
            tune_process(torch.device("cuda"))
            assert os.environ["CUBLAS_WORKSPACE_CONFIG"] == told
        assert torch.backends.cudnn.deterministic
    finally:
        torch.set_float32_matmul_precision(precision)


def _compiler_of_rank() -> tuple[bool, bool, bool]:
    """Train two rounds on ranks; return whether that imported PyTorch's compiler, and if it works then."""
    tune_process(torch.device("cpu"))
    config = settings("train.batch_size=16")
    state = fresh(config)
    step = Step(config, state, LocalContext("unused"))
    before = [p.detach().clone() for p in state.generator.parameters()]
    for _ in range(2):
        batch = Batch(torch.zeros(8, 1, 16, 16, dtype=torch.uint8), None)
        step.discriminator_phase(batch)
        step.generator_phase(batch)
    moved = all(not torch.equal(a, b) for a, b in zip(before, state.generator.parameters(), strict=True))
    imported = "torch._dynamo" in sys.modules
    torch.compile(nn.Linear(2, 2), backend="eager")(torch.ones(1, 2))
    return moved, imported, "torch._dynamo" in sys.modules


def test_training_on_cpus_does_not_import_the_compiler_which_works_all_the_same() -> None:
    """Its import takes a worker as long as that of PyTorch: seconds of every start."""
    assert run_gloo(_compiler_of_rank, 2) == [(True, False, True)] * 2
