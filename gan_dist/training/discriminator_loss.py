"""What the discriminator minimises on a portion of its batch: the game's loss and the penalties."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gan_dist import models
from gan_dist.config import RunConfig
from gan_dist.training import losses, penalties
from gan_dist.training.context import Context
from gan_dist.training.discriminator_input import DiscriminatorInput
from gan_dist.training.noise import StepNoise
from gan_dist.training.precision import PrecisionPolicy
from gan_dist.training.schedule import penalty_factor

Scalars = dict[str, Tensor]


class DiscriminatorOutput(NamedTuple):
    """One side of a portion, reals or fakes."""

    images: Tensor
    """As the discriminator was shown them."""
    logits: Tensor
    grad_norm_sq: Tensor
    """E|grad D|^2 at the images before they were augmented; 0 where nobody asked."""


class DiscriminatorObjective:
    """The discriminator's loss, penalties included; `begin` a phase, then call it for each portion.

    Args:
        config: The run.
        context: The process that this is.
        discriminator: The network, or DDP around it.
        arithmetic: How networks compute.
        draws: The step's random numbers.
        view: What the discriminator is shown of images.
    """

    def __init__(
        self,
        config: RunConfig,
        context: Context,
        discriminator: nn.Module,
        arithmetic: PrecisionPolicy,
        draws: StepNoise,
        view: DiscriminatorInput,
    ) -> None:
        self._config = config
        self._loss = losses.build(config.loss)
        self._context = context
        self._discriminator = discriminator
        self._arithmetic = arithmetic
        self._draws = draws
        self._view = view
        self._apart = models.uses_batch_statistics(discriminator)
        """Whether reals and fakes must be judged in two passes, lest they influence each other."""
        self._clock = 0
        self._weight = 0.0
        """What this phase's penalties are multiplied with: 0, or the number of phases that they stand for,
        times what the schedule leaves of them."""
        self._spread: Tensor | None = None

    def begin(self, reals: list[Tensor], clock: int) -> None:
        """Begin a phase on this rank's portions of the reals, after `clock` images."""
        loss, batch = self._config.loss, self._config.train.batch_size
        self._clock = clock
        due = penalties.due(clock, batch, loss.penalty_every)
        left = penalty_factor(loss, self._config.optim, clock)
        self._weight = loss.penalty_every * left if due else 0.0
        if loss.dragan and self._weight:
            self._spread = self._deviation(reals)

    def __call__(
        self, reals: Tensor, fakes: Tensor, labels: Tensor | None, portion: int
    ) -> tuple[Tensor, Scalars]:
        """Return the loss on a portion, and detached scalars that tell of it.

        Args:
            reals: float32 (n, C, R, R), before they are augmented.
            fakes: As many, likewise.
            labels: int64 (n,), of both, or None.
            portion: Which of the portions it is.
        """
        config = self._config.loss
        gamma_real, gamma_fake = self._weight * config.r1, self._weight * config.r2
        real, fake = self._judge(reals, fakes, labels, portion, penalised=(gamma_real > 0, gamma_fake > 0))
        loss = self._loss.discriminator(real.logits, fake.logits)
        if gamma_real:
            loss = loss + gamma_real / 2 * real.grad_norm_sq
        if gamma_fake:
            loss = loss + gamma_fake / 2 * fake.grad_norm_sq
        if self._weight and (config.gp or config.dragan):
            penalty = self._unit_norm_penalties(real.images, fake.images, labels, portion)
            loss = loss + self._weight * penalty
        real_accuracy, fake_accuracy = self._loss.accuracy(real.logits, fake.logits)
        return loss, {
            "loss_d": loss.detach(),
            "real_accuracy": real_accuracy,
            "fake_accuracy": fake_accuracy,
        }

    def _judge(
        self, reals: Tensor, fakes: Tensor, labels: Tensor | None, portion: int, penalised: tuple[bool, bool]
    ) -> tuple[DiscriminatorOutput, DiscriminatorOutput]:
        """Show the discriminator both sides, in one pass where it judges every image by itself.

        `penalised` says of which sides E|grad D|^2 is wanted. The gradient is with respect to the images
        before they are augmented, and goes through the augmentation, as in StyleGAN2-ADA's and R3GAN's code.
        """
        # A pass whose gradient is penalised is one of float32, which the loss then shares.
        exact = any(penalised)
        if self._apart or penalised[0] != penalised[1]:
            reals.requires_grad_(penalised[0])
            fakes.requires_grad_(penalised[1])
            shown_reals = self._view(reals, "reals-d", portion=portion)
            shown_fakes = self._view(fakes, "fakes-d", portion=portion)
            # One context for both, since it keeps the weights that it has cast.
            with self._arithmetic.networks(exact=exact):
                real_logits = self._discriminator(shown_reals, labels)
                fake_logits = self._discriminator(shown_fakes, labels)
            real = DiscriminatorOutput(shown_reals, real_logits, _slopes(real_logits, reals).mean())
            return real, DiscriminatorOutput(shown_fakes, fake_logits, _slopes(fake_logits, fakes).mean())
        both = torch.cat([reals, fakes]).requires_grad_(exact)
        shown = self._view(both, "reals-d", "fakes-d", portion=portion)
        with self._arithmetic.networks(exact=exact):
            logits = self._discriminator(shown, None if labels is None else labels.repeat(2))
        sides = zip(shown.chunk(2), logits.chunk(2), _slopes(logits, both).chunk(2), strict=True)
        real, fake = (DiscriminatorOutput(images, judged, slopes.mean()) for images, judged, slopes in sides)
        return real, fake

    def _unit_norm_penalties(
        self, reals: Tensor, fakes: Tensor, labels: Tensor | None, portion: int
    ) -> Tensor:
        """Return the weighted penalties on norms that are not 1; each has a pass of its own, in float32.

        They are taken between, or around, images as the discriminator is shown them.
        """
        config, pack = self._config.loss, self._config.model.pack
        one_sided = config.gp_sides == "one"

        def critic(images: Tensor) -> Tensor:
            logits: Tensor = self._discriminator(images, labels)
            return logits

        total = reals.new_zeros(())
        if config.gp:
            mix = self._draws.uniform("mix-gp", (), self._clock, portion)
            grad_norm_sq = penalties.gradient_penalty(
                critic, reals, fakes, mix, one_sided=one_sided, pack=pack
            )
            total = total + config.gp * grad_norm_sq
        if config.dragan:
            assert self._spread is not None
            mix = self._draws.uniform("mix-dragan", (), self._clock, portion)
            noise = self._draws.uniform("noise-dragan", tuple(reals.shape[1:]), self._clock, portion)
            grad_norm_sq = penalties.dragan(
                critic, reals, noise, mix, self._spread, one_sided=one_sided, pack=pack
            )
            total = total + config.dragan * grad_norm_sq
        return total

    def _deviation(self, reals: list[Tensor]) -> Tensor:
        """Return the standard deviation of all numbers of the global batch, as DRAGAN has it."""
        values = torch.cat([part.reshape(-1) for part in reals]).double()
        sums = torch.stack([values.sum(), values.square().sum()])
        if self._context.world_size > 1:
            dist.all_reduce(sums)
        sums /= values.numel() * self._context.world_size
        return (sums[1] - sums[0].square()).clamp(min=0).sqrt().float()


def _slopes(logits: Tensor, images: Tensor) -> Tensor:
    """Return |grad D|^2 at each image, (n,), or zeros at images that want no gradient."""
    if not images.requires_grad:
        return images.new_zeros(len(images))
    return penalties.gradient_norms_sq(logits, images)
