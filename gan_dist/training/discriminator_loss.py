"""Loss of the discriminator on a micro-batch: the adversarial loss and the penalties."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gan_dist import models
from gan_dist.config import LossConfig, OptimConfig
from gan_dist.training import losses, penalties
from gan_dist.training.augment import DiscriminatorInput
from gan_dist.training.lecam import LogitMeans, lecam
from gan_dist.training.noise import StepNoise
from gan_dist.training.precision import PrecisionPolicy
from gan_dist.training.profile import phase
from gan_dist.training.schedule import penalty_factor
from gan_dist.training.state import TrainingState

Scalars = dict[str, Tensor]


class DiscriminatorOutput(NamedTuple):
    """The discriminator's output for the reals or for the fakes of a micro-batch."""

    inputs: Tensor
    """Augmented images, as the discriminator gets them."""
    logits: Tensor
    grad_norm_sq: Tensor
    """E|grad D|^2 with respect to the images before augmentation; 0 if it is not penalised."""
    error: Tensor | None = None
    """Mean error of the reconstruction of reals."""


@dataclass
class DiscriminatorObjective:
    """The discriminator's loss with its penalties: `begin` a phase, call for each micro-batch, `end` it.

    A discriminator that reconstructs the reals learns this too: Liu et al. 2021 (FastGAN).
    """

    loss: LossConfig
    optim: OptimConfig
    """Schedule of the penalties' weights."""
    state: TrainingState
    discriminator: nn.Module
    """That of the state, or DDP around it."""
    precision: PrecisionPolicy
    noise: StepNoise
    augment: DiscriminatorInput

    def __post_init__(self) -> None:
        self._adversarial = losses.build(self.loss)
        # Reals and fakes must not influence each other.
        self._reconstructs = self.state.discriminator.reconstruction > 0  # reals only
        self._separate_passes = self._reconstructs or models.uses_batch_statistics(self.discriminator)
        self._weight = 0.0
        """Factor of this phase's penalties: 0, or `penalty_every` times that of the schedule."""
        self._std: Tensor | None = None
        self._logit_means = LogitMeans()

    def use(self, loss: LossConfig) -> None:
        """Take the section `loss` with other values of what may change within a run."""
        self.loss = self._adversarial.loss = loss

    def begin(self, reals: list[Tensor]) -> None:
        """Begin a phase on this rank's reals, by micro-batch."""
        loss, images = self.loss, self.state.images
        due = penalties.penalties_due(images, self.noise.train.batch_size, loss.penalty_every)
        self._weight = loss.penalty_every * penalty_factor(loss, self.optim, images) if due else 0.0
        if loss.dragan and self._weight:
            self._std = self._standard_deviation(reals)

    def __call__(
        self, reals: Tensor, fakes: Tensor, labels: Tensor | None, micro_batch: int
    ) -> tuple[Tensor, Scalars]:
        """Return the loss on a micro-batch, and detached scalars: `loss_d` and both accuracies.

        If the discriminator reconstructs reals, the mean error is a scalar too, `loss_reconstruction`.

        Args:
            reals: float32 (n, C, H, W), before augmentation.
            fakes: As many, likewise.
            labels: int64 (n,), of both, or None.
            micro_batch: Index of the micro-batch.
        """
        gamma_real, gamma_fake = self._weight * self.loss.r1, self._weight * self.loss.r2
        real, fake = self._outputs(reals, fakes, labels, micro_batch, (gamma_real > 0, gamma_fake > 0))
        loss = self._adversarial.discriminator(real.logits, fake.logits)
        if gamma_real:
            loss = loss + gamma_real / 2 * real.grad_norm_sq
        if gamma_fake:
            loss = loss + gamma_fake / 2 * fake.grad_norm_sq
        if self._weight and (self.loss.gp or self.loss.dragan):
            with phase("penalties"):
                penalty = self._unit_norm_penalties(real.inputs, fake.inputs, labels, micro_batch)
            loss = loss + self._weight * penalty
        if self.loss.lecam:
            self._logit_means.add(real.logits, fake.logits)
            if self.state.images >= 1000 * self.loss.lecam_start_kimg and self.state.logits.updates:
                loss = loss + self.loss.lecam * lecam(real.logits, fake.logits, self.state.logits)
        if real.error is not None:
            loss = loss + self.state.discriminator.reconstruction * real.error
        real_accuracy, fake_accuracy = self._adversarial.accuracy(real.logits, fake.logits)
        scalars = {"loss_d": loss.detach(), "real_accuracy": real_accuracy, "fake_accuracy": fake_accuracy}
        if real.error is not None:
            scalars["loss_reconstruction"] = real.error.detach()
        return loss, scalars

    def end(self) -> None:
        """End a phase, after its update."""
        if self.loss.lecam:
            real, fake = self._logit_means.over_ranks(self.noise.process)
            self.state.logits.add(real, fake, self.loss.lecam_decay)

    def _outputs(
        self,
        reals: Tensor,
        fakes: Tensor,
        labels: Tensor | None,
        micro_batch: int,
        penalised: tuple[bool, bool],
    ) -> list[DiscriminatorOutput]:
        """Return the outputs for reals and for fakes, from one forward pass where that is the same.

        A penalised gradient is with respect to the images before augmentation, and passes through the
        augmentation, as in StyleGAN2-ADA's and R3GAN's code.
        """
        images, names = [reals, fakes], [["reals-d"], ["fakes-d"]]
        if not self._separate_passes and penalised[0] == penalised[1]:
            images, names = [torch.cat(images)], [["reals-d", "fakes-d"]]
            labels = None if labels is None else labels.repeat(2)
        for part, required in zip(images, penalised, strict=False):
            part.requires_grad_(required)
        inputs = [
            self.augment(part, *name, micro_batch=micro_batch)
            for part, name in zip(images, names, strict=True)
        ]
        # A pass with a penalised gradient is in float32, and the loss shares it. There is one context for all
        # passes, since autocast caches the weights that it has cast.
        with self.precision.networks(float32=any(penalised)):
            if self._reconstructs:
                draws = self.noise.uniform("reconstruction", (), micro_batch)
                of_reals, errors = self.discriminator(inputs[0], labels, draws)
                logits, error = [of_reals, self.discriminator(inputs[1], labels)], errors.mean()
            else:
                logits, error = [self.discriminator(part, labels) for part in inputs], None
        with phase("penalties"):
            norms_sq = [
                penalties.gradient_norms_sq(out, part) if part.requires_grad else part.new_zeros(len(part))
                for out, part in zip(logits, images, strict=True)
            ]
        of_both = (
            [half for tensor in tensors for half in tensor.chunk(2 // len(tensors))]
            for tensors in (inputs, logits, norms_sq)
        )
        real, fake = (
            DiscriminatorOutput(part, out, norm_sq.mean())
            for part, out, norm_sq in zip(*of_both, strict=True)
        )
        return [real._replace(error=error), fake]

    def _unit_norm_penalties(
        self, reals: Tensor, fakes: Tensor, labels: Tensor | None, micro_batch: int
    ) -> Tensor:
        """Return the weighted penalties on norms other than 1; each has a float32 pass of its own.

        Their points lie between, or around, augmented images.
        """
        config, pack = self.loss, self.state.discriminator.pack
        one_sided = config.gp_sides == "one"
        critic = partial(self.discriminator, labels=labels)
        total = reals.new_zeros(())
        if config.gp:
            mix = self.noise.uniform("mix-gp", (), micro_batch)
            penalty = penalties.gradient_penalty(critic, reals, fakes, mix, one_sided=one_sided, pack=pack)
            total = total + config.gp * penalty
        if config.dragan and self._std is not None:
            mix = self.noise.uniform("mix-dragan", (), micro_batch)
            noise = self.noise.uniform("noise-dragan", tuple(reals.shape[1:]), micro_batch)
            penalty = penalties.dragan(critic, reals, noise, mix, self._std, one_sided=one_sided, pack=pack)
            total = total + config.dragan * penalty
        return total

    def _standard_deviation(self, reals: list[Tensor]) -> Tensor:
        """Return the standard deviation of all numbers of the global batch, as in DRAGAN's code."""
        world_size = self.noise.process.world_size
        values = torch.cat([part.reshape(-1) for part in reals]).double()
        sums = torch.stack([values.sum(), values.square().sum()])
        if world_size > 1:
            dist.all_reduce(sums)
        sums /= values.numel() * world_size
        return (sums[1] - sums[0].square()).clamp(min=0).sqrt().to(reals[0].dtype)
