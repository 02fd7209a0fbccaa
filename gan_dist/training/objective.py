"""What the discriminator minimises on a portion of its batch: the game's loss and the penalties."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gan_dist import losses, models, penalties
from gan_dist.config import RunConfig
from gan_dist.training.arithmetic import Arithmetic
from gan_dist.training.context import Context
from gan_dist.training.draws import Draws

Scalars = dict[str, Tensor]


class DiscriminatorObjective:
    """The discriminator's loss, penalties included; `begin` a phase, then call it for each portion.

    Args:
        config: The run.
        context: The process that this is.
        discriminator: The network, or DDP around it.
        arithmetic: How networks compute.
        draws: The step's random numbers.
    """

    def __init__(
        self,
        config: RunConfig,
        context: Context,
        discriminator: nn.Module,
        arithmetic: Arithmetic,
        draws: Draws,
    ) -> None:
        self._config = config
        self._loss = losses.build(config.loss)
        self._context = context
        self._discriminator = discriminator
        self._arithmetic = arithmetic
        self._draws = draws
        self._apart = models.coupled(discriminator)
        """Whether reals and fakes must be judged in two passes, lest they influence each other."""
        self._clock = 0
        self._weight = 0
        """What this phase's penalties are multiplied with: 0, or the number of phases that they stand for."""
        self._spread: Tensor | None = None

    def begin(self, reals: list[Tensor], clock: int) -> None:
        """Begin a phase on this rank's portions of the reals, after `clock` images."""
        loss, batch = self._config.loss, self._config.train.batch_size
        self._clock = clock
        self._weight = loss.penalty_every if penalties.due(clock, batch, loss.penalty_every) else 0
        if loss.dragan and self._weight:
            self._spread = self._deviation(reals)

    def __call__(
        self, reals: Tensor, fakes: Tensor, labels: Tensor | None, portion: int
    ) -> tuple[Tensor, Scalars]:
        """Return the loss on a portion, and detached scalars that tell of it.

        Args:
            reals: float32 (n, C, R, R) as the discriminator is shown them.
            fakes: As many.
            labels: int64 (n,), of both, or None.
            portion: Which of the portions it is.
        """
        config = self._config.loss
        gamma_real, gamma_fake = self._weight * config.r1, self._weight * config.r2
        # A pass whose gradient is penalised is one of float32, which the loss then shares.
        with self._arithmetic.networks(exact=bool(gamma_real or gamma_fake)):
            judged = self._logits(reals, fakes, labels, slopes=(gamma_real > 0, gamma_fake > 0))
        real_logits, fake_logits, real_slope, fake_slope = judged
        loss = self._loss.discriminator(real_logits, fake_logits)
        if gamma_real:
            loss = loss + gamma_real / 2 * real_slope
        if gamma_fake:
            loss = loss + gamma_fake / 2 * fake_slope
        if self._weight and (config.gp or config.dragan):
            loss = loss + self._weight * self._unit_norm_penalties(reals, fakes, labels, portion)
        real_accuracy, fake_accuracy = self._loss.accuracy(real_logits, fake_logits)
        return loss, {
            "loss_d": loss.detach(),
            "real_accuracy": real_accuracy,
            "fake_accuracy": fake_accuracy,
        }

    def _logits(
        self, reals: Tensor, fakes: Tensor, labels: Tensor | None, slopes: tuple[bool, bool]
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return the logits of reals and of fakes and, where asked for, E|grad D|^2 at each (else zeros)."""
        zero = reals.new_zeros(())
        if self._apart or slopes[0] != slopes[1]:
            found = []
            for images, sloped in ((reals, slopes[0]), (fakes, slopes[1])):
                images.requires_grad_(sloped)
                logits = self._discriminator(images, labels)
                slope = penalties.gradient_norm_sq_from(logits, images) if sloped else zero
                found.append((logits, slope))
            return found[0][0], found[1][0], found[0][1], found[1][1]
        both = torch.cat([reals, fakes]).requires_grad_(slopes[0])
        logits = self._discriminator(both, None if labels is None else labels.repeat(2))
        real_logits, fake_logits = logits.chunk(2)
        if not slopes[0]:
            return real_logits, fake_logits, zero, zero
        squares = penalties.gradient_norms_sq(logits, both)
        return real_logits, fake_logits, *(half.mean() for half in squares.chunk(2))

    def _unit_norm_penalties(
        self, reals: Tensor, fakes: Tensor, labels: Tensor | None, portion: int
    ) -> Tensor:
        """Return the weighted penalties on norms that are not 1; each has a pass of its own, in float32."""
        config, pack = self._config.loss, self._config.model.pack
        one_sided = config.gp_sides == "one"

        def critic(images: Tensor) -> Tensor:
            logits: Tensor = self._discriminator(images, labels)
            return logits

        total = reals.new_zeros(())
        if config.gp:
            mix = self._draws.uniform("mix-gp", (), self._clock, portion)
            slope = penalties.gradient_penalty(critic, reals, fakes, mix, one_sided=one_sided, pack=pack)
            total = total + config.gp * slope
        if config.dragan:
            assert self._spread is not None
            mix = self._draws.uniform("mix-dragan", (), self._clock, portion)
            noise = self._draws.uniform("noise-dragan", tuple(reals.shape[1:]), self._clock, portion)
            slope = penalties.dragan(critic, reals, noise, mix, self._spread, one_sided=one_sided, pack=pack)
            total = total + config.dragan * slope
        return total

    def _deviation(self, reals: list[Tensor]) -> Tensor:
        """Return the standard deviation of all numbers of the global batch, as DRAGAN has it."""
        values = torch.cat([part.reshape(-1) for part in reals]).double()
        sums = torch.stack([values.sum(), values.square().sum()])
        if self._context.world_size > 1:
            dist.all_reduce(sums)
        sums /= values.numel() * self._context.world_size
        return (sums[1] - sums[0].square()).clamp(min=0).sqrt().float()
