"""The step against the same training written out in plain PyTorch, one formula after the other."""

from __future__ import annotations

import copy
from collections.abc import Iterable

import pytest
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from gan_dist import randomness
from gan_dist.config import RunConfig, load_config
from gan_dist.data.loader import Batch
from gan_dist.generation import ImageShape
from gan_dist.models import ada
from gan_dist.training.context import LocalContext
from gan_dist.training.state import TrainingState, new_state
from gan_dist.training.step import Step

BATCH, LATENT, SEED, ROUNDS = 16, 8, 3, 8
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
        rates = config.optim
        self.adam_g = torch.optim.Adam(self.g.parameters(), lr=rates.g.lr, betas=(0.5, 0.9), foreach=False)
        self.adam_d = torch.optim.Adam(self.d.parameters(), lr=rates.d.lr, betas=(0.5, 0.9), foreach=False)
        self.images, self.p, self.signs = 0, 0.2, list[float]()

    def round(self, batches: Iterable[Tensor]) -> None:
        start = self.images
        for batch in batches:
            reals = batch.float() / 127.5 - 1
            sign = self.discriminator(reals)
            self.images += BATCH
        self.generator(reals)
        if self.config.data.augment == "ada":
            self.signs.append(sign)
            self.adapt()
        half_life = min(40, 0.5 * start)
        beta = 0.5 ** ((self.images - start) / half_life) if half_life else 0.0
        with torch.no_grad():
            for old, new in zip(self.average.parameters(), self.g.parameters(), strict=True):
                old.copy_(beta * old + (1 - beta) * new)

    def discriminator(self, reals: Tensor) -> float:
        with torch.no_grad():
            fakes = self.g(randomness.normal((BATCH, LATENT), SEED, "latents-d", self.images))
        reals, fakes = reals.clone().requires_grad_(), fakes.clone().requires_grad_()
        real, fake = self.d(self.seen(reals, "reals-d")), self.d(self.seen(fakes, "fakes-d"))
        loss = self.config.loss
        if loss.name == "rpgan":
            value = softplus(fake - real).mean()
            sign = torch.sign(real - fake).detach().mean()
        else:
            value = softplus(-real).mean() + softplus(fake).mean()
            sign = torch.sign(real).detach().mean()
        if (self.images // BATCH) % loss.penalty_every == 0:
            for weight, logits, images in ((loss.r1, real, reals), (loss.r2, fake, fakes)):
                (slope,) = torch.autograd.grad(logits.sum(), images, create_graph=True)
                value = value + loss.penalty_every * weight / 2 * slope.square().sum((1, 2, 3)).mean()
        self.update(self.adam_d, self.config.optim.d.lr, value)
        return float(sign)

    def generator(self, reals: Tensor) -> None:
        fakes = self.g(randomness.normal((BATCH, LATENT), SEED, "latents-g", self.images))
        fake = self.d(self.seen(fakes, "fakes-g"))
        value = softplus(-fake).mean()
        if self.config.loss.name == "rpgan":
            value = softplus(self.d(self.seen(reals, "reals-g")) - fake).mean()
        self.update(self.adam_g, self.config.optim.g.lr, value)

    def update(self, adam: torch.optim.Optimizer, rate: float, loss: Tensor) -> None:
        self.g.zero_grad()
        self.d.zero_grad()
        loss.backward()
        adam.param_groups[0]["lr"] = rate * max(0.0, 1 - self.images / 700)
        adam.step()

    def seen(self, images: Tensor, name: str) -> Tensor:
        if self.config.data.augment == "none":
            return images
        draws = randomness.uniform((BATCH, ada.COLUMNS), SEED, f"augment-{name}", self.images)
        return ada.augment(images, draws, self.p)

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


def flat(network: nn.Module) -> Tensor:
    # Not the bias of the logit: rpgan gives it no gradient, and Adam makes a step of what rounding leaves.
    return torch.cat([weights.detach().flatten() for weights in network.parameters() if weights.numel() > 1])


def weights(state: TrainingState) -> dict[str, Tensor]:
    return {"g": flat(state.generator), "d": flat(state.discriminator), "average": flat(state.average)}


@pytest.mark.parametrize(("d_steps", "r2"), [(1, 0.25), (3, 0.25), (1, 0)])
@pytest.mark.parametrize("loss", ["nonsaturating", "rpgan"])
@pytest.mark.parametrize("kind", ["none", "ada"])
def test_a_step_is_what_the_papers_say(loss: str, kind: str, d_steps: int, r2: float) -> None:
    torch.manual_seed(0)
    torch.set_num_threads(1)
    config = load_config(
        "digits",
        [
            *SMALL,
            *(f"loss.name={loss}", "loss.gp=0", "loss.r1=0.5", f"loss.r2={r2}", "loss.penalty_every=2"),
            *(f"optim.d_steps={d_steps}", f"data.augment={kind}"),
            *("data.augment_target=0.1", "data.augment_kimg=2"),
        ],
    )
    state = new_state(config, ImageShape(16, 1), torch.device("cpu"))
    state.augment.p = 0.2
    reference = Reference(config, state.generator, state.discriminator)
    step = Step(config, state, LocalContext("unused"))
    images = torch.randint(0, 256, (ROUNDS * d_steps, BATCH, 1, 16, 16), dtype=torch.uint8)
    strengths = []
    for given in images.split(d_steps):
        before = weights(state)
        for batch in given:
            of_d = step.discriminator_phase(Batch(batch, None))
        step.share(of_d | step.generator_phase(Batch(given[-1], None)), stop=False)
        step.update_average()
        reference.round(given)
        strengths.append((state.augment.p, reference.p))
        theirs = reference.weights()
        for name, ours in weights(state).items():
            # 5e-5 at most where this was written; one weight whose gradient is nearly zero makes 0.01.
            assert (ours - theirs[name]).norm() / (ours - before[name]).norm() < 0.01, name
        reference.follow(state)
    assert all(ours == pytest.approx(theirs) for ours, theirs in strengths)
    assert (len(set(strengths)) > 1) == (kind == "ada")
