"""The step against the same training written out in plain PyTorch, one formula after the other.

Both compute in float64. In float32 rounding decides on which side of zero an input of a ReLU lies that is
nearly zero, and CPUs with other vector instructions round otherwise: one such input changes a gradient by
0.003 of its norm.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from gan_dist.config import RateConfig, RunConfig, load_config
from gan_dist.core import rng
from gan_dist.data.batches.loader import Batch
from gan_dist.models.generator import ImageShape
from gan_dist.training import augment
from gan_dist.training.context import LocalContext
from gan_dist.training.precision import PrecisionPolicy
from gan_dist.training.state import TrainingState, new_state
from gan_dist.training.step import Step

BATCH, LATENT, SEED, ROUNDS = 16, 8, 3, 5
SMALL = [
    *("name=run", "storage=x", f"seed={SEED}", "data.resolution=16", "train.precision=fp32"),
    *(
        "model.name=resnet",
        "model.spectral_norm=false",
        "model.width=8",
        f"model.latent_dim={LATENT}",
        f"train.batch_size={BATCH}",
    ),
    # A half-life that the ramp limits at first, and then no longer does.
    *("ema.half_life_kimg=0.04", "ema.ramp_up=0.5"),
    *("optim.schedule=linear", "optim.decay_kimg=0.7", "optim.g.lr=0.002", "optim.d.lr=0.001"),
    *("optim.g.beta1=0.5", "optim.d.beta1=0.5", "optim.g.beta2=0.9", "optim.d.beta2=0.9"),
]


class Reference:
    """Copies of the networks, trained by what the papers say; ADA's adjustment comes every four rounds."""

    def __init__(self, config: RunConfig, generator: nn.Module, discriminator: nn.Module) -> None:
        self.config = config
        self.g, self.d = copy.deepcopy(generator), copy.deepcopy(discriminator)
        self.average = copy.deepcopy(generator)
        self.adam_g, self.adam_d = (
            torch.optim.Adam(network.parameters(), betas=(0.5, 0.9), foreach=False)
            if config.optim.name == "adam"
            else torch.optim.RMSprop(network.parameters(), alpha=0.9, foreach=False)
            for network in (self.g, self.d)
        )
        self.images, self.p, self.signs = 0, 0.2, list[float]()
        self.averages: tuple[Tensor, Tensor] | None = None

    def now(self, start: float, end: float) -> float:
        """What goes from `start` to `end` is at the present clock."""
        optim = self.config.optim
        assert optim.decay_kimg is not None
        passed = min(1.0, self.images / 1000 / optim.decay_kimg)
        gone = passed if optim.schedule == "linear" else math.sin(math.pi / 2 * passed) ** 2
        return start + (end - start) * gone

    def round(self, batches: Iterable[Batch]) -> None:
        start = self.images
        for batch in batches:
            reals = batch.images.double() / 127.5 - 1
            sign = self.discriminator(self.mirrored(reals, "d"), batch.labels)
            self.images += BATCH
        self.generator(self.mirrored(reals, "g"), batch.labels)
        if self.config.data.augment == "ada" and self.config.data.augment_p is None:
            self.signs.append(sign)
            self.adapt()
        half_life = min(40, 0.5 * start)
        beta = 0.5 ** ((self.images - start) / half_life) if half_life else 0.0
        with torch.no_grad():
            for old, new in zip(self.average.parameters(), self.g.parameters(), strict=True):
                old.copy_(beta * old + (1 - beta) * new)

    def mirrored(self, reals: Tensor, phase: str) -> Tensor:
        if not self.config.data.mirror:
            return reals
        draws = rng.uniform((BATCH,), SEED, f"mirror-{phase}", self.images)
        sides = [
            torch.flip(image, [-1]) if draw < 0.5 else image for image, draw in zip(reals, draws, strict=True)
        ]
        return torch.stack(sides)

    def discriminator(self, reals: Tensor, labels: Tensor | None) -> float:
        with torch.no_grad():
            fakes = self.g(rng.normal((BATCH, LATENT), SEED, "latents-d", self.images), labels)
        reals, fakes = reals.clone().requires_grad_(), fakes.clone().requires_grad_()
        seen = self.seen(reals, "reals-d"), self.seen(fakes, "fakes-d")
        real, fake = (self.d(images, labels) for images in seen)
        loss = self.config.loss
        value = discriminators_loss(loss.name, real, fake, loss.label_smoothing)
        if (self.images // BATCH) % loss.penalty_every == 0:
            counted = loss.penalty_every * self.now(1, loss.penalty_end_factor)
            for weight, logits, images in ((loss.r1, real, reals), (loss.r2, fake, fakes)):
                if weight:
                    (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
                    slopes = slope.square().sum((1, 2, 3))
                    value = value + counted * weight / 2 * slopes.mean()
            value = value + counted * self.unit_norms(*seen, labels)
        if loss.lecam:
            if self.averages and self.images >= 1000 * loss.lecam_start_kimg:
                mean_real, mean_fake = self.averages
                far = ((real - mean_fake) ** 2).mean() + ((fake - mean_real) ** 2).mean()
                value = value + loss.lecam * far
            means = real.detach().mean(), fake.detach().mean()
            kept = loss.lecam_decay
            old = self.averages or means
            self.averages = kept * old[0] + (1 - kept) * means[0], kept * old[1] + (1 - kept) * means[1]
        self.update(self.adam_d, self.config.optim.d, value)
        self.gradient_d = torch.cat([p.grad.flatten() for p in self.d.parameters() if p.grad is not None])
        if loss.clip:
            with torch.no_grad():
                for weights in self.d.parameters():
                    weights.copy_(weights.clamp(-loss.clip, loss.clip))
        return float(torch.sign(real - fake if loss.name == "rpgan" else real).detach().mean())

    def unit_norms(self, reals: Tensor, fakes: Tensor, labels: Tensor | None) -> Tensor:
        """The weighted penalties between reals and fakes, and around reals; a pack is one point."""
        loss, pack = self.config.loss, self.config.model.pack
        total = torch.zeros((), dtype=torch.float64)
        for name, weight in (("gp", loss.gp), ("dragan", loss.dragan)):
            if not weight:
                continue
            mix = rng.uniform((BATCH,), SEED, f"mix-{name}", self.images)
            mix = mix[::pack].repeat_interleave(pack)[:, None, None, None]
            if name == "gp":
                points = mix * reals + (1 - mix) * fakes
            else:
                noise = rng.uniform(tuple(reals.shape), SEED, "noise-dragan", self.images)
                points = reals + mix * 0.5 * reals.std(correction=0) * noise
            points = points.detach().requires_grad_()
            (slope,) = torch.autograd.grad(self.d(points, labels).sum(), points, create_graph=True)
            excess = slope.reshape(BATCH // pack, -1).norm(dim=1) - 1
            if loss.gp_sides == "one":
                excess = excess.clamp(min=0)
            total = total + weight * excess.square().mean()
        return total

    def generator(self, reals: Tensor, labels: Tensor | None) -> None:
        fakes = self.g(rng.normal((BATCH, LATENT), SEED, "latents-g", self.images), labels)
        fake = self.d(self.seen(fakes, "fakes-g"), labels)
        name, loss = self.config.loss.name, self.config.loss
        if loss.top_k < 1:
            falls = self.images // round(1000 * loss.top_k_every_kimg)
            share = max(loss.top_k, loss.top_k_decay**falls)
            fake = fake.topk(math.ceil(share * len(fake) - 1e-6)).values
        real = self.d(self.seen(reals, "reals-g"), labels) if name == "rpgan" else fake
        self.update(self.adam_g, self.config.optim.g, generators_loss(name, real, fake))
        self.gradient_g = torch.cat([p.grad.flatten() for p in self.g.parameters() if p.grad is not None])

    def update(self, adam: torch.optim.Optimizer, rate: RateConfig, loss: Tensor) -> None:
        self.g.zero_grad()
        self.d.zero_grad()
        loss.backward()
        adam.param_groups[0]["lr"] = rate.lr * self.now(1, self.config.optim.end_factor)
        if rate.beta2_start is not None:
            adam.param_groups[0]["betas"] = (0.5, self.now(rate.beta2_start, 0.9))
        adam.step()

    def seen(self, images: Tensor, name: str) -> Tensor:
        kind, loss, given = self.config.data.augment, self.config.loss, self.config.data.augment_p
        if kind != "none":
            augmentation = augment.build(self.config.data)
            columns = augmentation.columns((1, 16, 16))
            draws = rng.uniform((BATCH, columns), SEED, f"augment-{name}", self.images)
            p = self.p if given is None else self.now(0, given)
            images = augmentation(images, draws, p)
        sigma = loss.instance_noise * max(0.0, 1 - self.images / (1000 * loss.instance_noise_kimg))
        if sigma:
            images = images + sigma * rng.normal(tuple(images.shape), SEED, f"noise-{name}", self.images)
        return images

    def weights(self) -> dict[str, Tensor]:
        return {"g": flat(self.g), "d": flat(self.d), "average": flat(self.average)}

    def follow(self, state: TrainingState) -> None:
        """Take over a state's weights and Adam's moments, so that no rounding grows from round to round."""
        for ours, theirs in (
            (self.g, state.generator),
            (self.d, state.discriminator),
            (self.average, state.average),
        ):
            ours.load_state_dict(theirs.state_dict())
        for adam, other in ((self.adam_g, state.optimizer_g), (self.adam_d, state.optimizer_d)):
            pairs = zip(adam.param_groups[0]["params"], other.param_groups[0]["params"], strict=True)
            for weights, theirs in pairs:
                adam.state[weights] = copy.deepcopy(other.state[theirs])

    def adapt(self) -> None:
        if len(self.signs) == 4:
            images = 4 * BATCH * self.config.optim.d_steps
            direction = 1 if sum(self.signs) / 4 > 0.1 else -1
            self.p = min(1.0, max(0.0, self.p + direction * images / 2000))
            self.signs.clear()


def discriminators_loss(name: str, real: Tensor, fake: Tensor, smoothing: float) -> Tensor:
    match name:
        case "lsgan":
            return ((real - 1 + smoothing) ** 2).mean() / 2 + (fake**2).mean() / 2
        case "wgan" | "wgan-gp":
            return fake.mean() - real.mean()
        case "hinge":
            return (1 - real).clamp(min=0).mean() + (1 + fake).clamp(min=0).mean()
        case "rpgan":
            return softplus(fake - real).mean()
        case _:
            wrong = (1 - smoothing) * softplus(-real) + smoothing * softplus(real)
            return wrong.mean() + softplus(fake).mean()


def generators_loss(name: str, real: Tensor, fake: Tensor) -> Tensor:
    match name:
        case "minimax":
            return -softplus(fake).mean()
        case "nonsaturating":
            return softplus(-fake).mean()
        case "lsgan":
            return ((fake - 1) ** 2).mean() / 2
        case "rpgan":
            return softplus(real - fake).mean()
        case _:
            return -fake.mean()


def flat(network: nn.Module) -> Tensor:
    # Not the bias of the logit: rpgan gives it no gradient, and Adam makes a step of what rounding leaves.
    return torch.cat([weights.detach().flatten() for weights in network.parameters() if weights.numel() > 1])


def weights(state: TrainingState) -> dict[str, Tensor]:
    return {"g": flat(state.generator), "d": flat(state.discriminator), "average": flat(state.average)}


@pytest.fixture(autouse=True)
def float64(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw random numbers as float32, as ever, and compute with them and with images in float64."""
    for name in ("normal", "uniform"):
        draw = getattr(rng, name)
        monkeypatch.setattr(rng, name, lambda *key, draw=draw: draw(*key).double())
    monkeypatch.setattr(PrecisionPolicy, "images", lambda _, pixels: pixels.double() / 127.5 - 1)


def assert_step_is_the_reference(config: RunConfig, rounds: int) -> list[tuple[float, float]]:
    """Compare gradients, weights and the average, round by round; return both strengths of ADA's."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    classes = 3 if config.model.conditional else 0
    state = new_state(
        config.model,
        config.optim,
        ImageShape(16, 1, classes),
        torch.device("cpu"),
        seed=config.seed,
        channels_last=config.train.channels_last,
    )
    for network in (state.generator, state.discriminator, state.average):
        network.double()
    state.augment.p = 0.2
    reference = Reference(config, state.generator, state.discriminator)
    step = Step(config, state, LocalContext("unused"))
    count = rounds * config.optim.d_steps
    images = torch.randint(0, 256, (count, BATCH, 1, 16, 16), dtype=torch.uint8)
    labels = torch.randint(0, 3, (count, BATCH)) if classes else [None] * count
    batches = [Batch(*pair) for pair in zip(images, labels, strict=True)]
    strengths = []
    for start in range(0, count, config.optim.d_steps):
        before, given = weights(state), batches[start : start + config.optim.d_steps]
        for batch in given:
            of_d = step.discriminator_phase(batch)
        step.average_over_ranks(of_d | step.generator_phase(given[-1]), stop=False)
        step.update_average()
        reference.round(given)
        strengths.append((state.augment.p, reference.p))
        for network, expected in (
            (state.discriminator, reference.gradient_d),
            (state.generator, reference.gradient_g),
        ):
            found = torch.cat([p.grad.flatten() for p in network.parameters() if p.grad is not None])
            assert (found - expected).norm() / expected.norm() < 1e-9
        theirs = reference.weights()
        for name, ours in weights(state).items():
            assert (ours - theirs[name]).norm() / (ours - before[name]).norm() < 1e-8, name
        reference.follow(state)
    return strengths


PAPERS = {
    ("nonsaturating", "none", 1, 0.25),
    ("nonsaturating", "ada", 3, 0.25),
    ("rpgan", "none", 3, 0.0),
    ("rpgan", "ada", 1, 0.25),
}
"""Every two of a loss, an augmentation and a number of updates; all of them at length."""
EVERY = itertools.product(("nonsaturating", "rpgan"), ("none", "ada"), (1, 3), (0.25, 0.0))


@pytest.mark.parametrize(
    ("loss", "kind", "d_steps", "r2"),
    [pytest.param(*one, marks=[] if one in PAPERS else pytest.mark.soak) for one in EVERY],
)
def test_a_step_is_what_the_papers_say(loss: str, kind: str, d_steps: int, r2: float) -> None:
    config = load_config(
        "digits",
        [
            *SMALL,
            *(f"loss.name={loss}", "loss.gp=0", "loss.r1=0.5", f"loss.r2={r2}", "loss.penalty_every=2"),
            *(f"optim.d_steps={d_steps}", f"data.augment={kind}"),
            *("data.augment_target=0.1", "data.augment_kimg=2"),
        ],
    )
    strengths = assert_step_is_the_reference(config, ROUNDS)
    assert all(ours == pytest.approx(theirs) for ours, theirs in strengths)
    assert (len(set(strengths)) > 1) == (kind == "ada")


OTHERS = {
    "minimax, smoothed, mirrored, seen through noise": [
        *("loss.name=minimax", "loss.label_smoothing=0.2", "data.mirror=true"),
        *("loss.instance_noise=0.5", "loss.instance_noise_kimg=0.08"),
    ],
    "lsgan, smoothed, DiffAugment, LeCam, top-k": [
        *("loss.name=lsgan", "loss.label_smoothing=0.1", "data.augment=diffaugment"),
        *("loss.lecam=0.4", "loss.lecam_decay=0.6", "loss.lecam_start_kimg=0.02", "loss.top_k=0.3"),
        *("loss.top_k_decay=0.7", "loss.top_k_every_kimg=0.016"),
    ],
    "RMSprop, clipped": ["loss.name=nonsaturating", "optim.name=rmsprop", "loss.clip=0.02"],
    "wgan-gp": ["loss.name=wgan-gp", "loss.gp=7", "optim.d_steps=2"],
    "wgan-gp, one-sided, lazily": [
        *("loss.name=wgan-gp", "loss.gp=7", "loss.gp_sides=one", "loss.penalty_every=2", "optim.d_steps=1"),
    ],
    "hinge, conditional, packs, gp": [
        *("loss.name=hinge", "model.conditional=true", "model.pack=2", "loss.gp=3", "optim.d_steps=1"),
    ],
    "dragan, lazily": ["loss.name=nonsaturating", "loss.dragan=5", "loss.penalty_every=2"],
    "dragan, one-sided, packs": [
        *("loss.name=nonsaturating", "loss.dragan=5", "loss.gp_sides=one", "model.pack=2"),
    ],
    "rpgan, conditional, all penalties": [
        *("loss.name=rpgan", "model.conditional=true", "loss.r1=1", "loss.r2=2", "loss.gp=3"),
    ],
    **{
        f"{schedule}, all that is scheduled, past its end": [
            *(f"optim.schedule={schedule}", "optim.decay_kimg=0.11", "optim.end_factor=0.25"),
            *("loss.name=rpgan", "loss.r1=1", "loss.r2=2", "loss.gp=3", "data.mirror=true"),
            *("loss.penalty_every=2", "loss.penalty_end_factor=0.1", "optim.d_steps=2"),
            *("optim.g.beta2_start=0.4", "optim.d.beta2_start=0.6", "data.augment=ada", "data.augment_p=0.9"),
        ]
        for schedule in ("linear", "cosine")
    },
}


@pytest.mark.parametrize("case", OTHERS)
def test_so_is_a_step_of_every_loss_and_penalty(case: str) -> None:
    assert_step_is_the_reference(load_config("digits", [*SMALL, *OTHERS[case]]), rounds=4)
