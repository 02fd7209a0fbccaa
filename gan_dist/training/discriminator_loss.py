"""Loss of the discriminator on a micro-batch: the adversarial loss and the penalties."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gan_dist import models
from gan_dist.config import LossConfig, OptimConfig
from gan_dist.core.distributed import Process
from gan_dist.training import losses, penalties
from gan_dist.training.augment import DiscriminatorInput
from gan_dist.training.noise import StepNoise
from gan_dist.training.precision import PrecisionPolicy
from gan_dist.training.schedule import penalty_factor

Scalars = dict[str, Tensor]


class DiscriminatorOutput(NamedTuple):
    """The discriminator's output for the reals or for the fakes of a micro-batch."""

    inputs: Tensor
    """Augmented images, as the discriminator gets them."""
    logits: Tensor
    grad_norm_sq: Tensor
    """E|grad D|^2 with respect to the images before augmentation; 0 if it is not penalised."""


class DiscriminatorObjective:
    """The discriminator's loss with its penalties; `begin` a phase, then call it for each micro-batch.

    Args:
        loss: The loss and its penalties.
        optim: The schedule of the penalties.
        process: This process.
        discriminator: The network, or DDP around it.
        precision: Number formats of the networks.
        noise: Random numbers of the step.
        augment: Makes the discriminator's input of images.
        batch_size: Images of the global batch.
        pack: Images that share a logit.
    """

    def __init__(
        self,
        loss: LossConfig,
        optim: OptimConfig,
        process: Process,
        discriminator: nn.Module,
        precision: PrecisionPolicy,
        noise: StepNoise,
        augment: DiscriminatorInput,
        *,
        batch_size: int,
        pack: int,
    ) -> None:
        self._config, self._optim = loss, optim
        self._loss = losses.build(loss)
        self._process = process
        self._discriminator = discriminator
        self._precision = precision
        self._noise = noise
        self._augment = augment
        self._batch_size, self._pack = batch_size, pack
        self._separate_passes = models.uses_batch_statistics(discriminator)
        """Whether reals and fakes need a forward pass each, so that they do not influence each other."""
        self._images = 0
        self._weight = 0.0
        """Factor of this phase's penalties: 0, or `penalty_every` times that of the schedule."""
        self._std: Tensor | None = None

    def begin(self, reals: list[Tensor], images: int) -> None:
        """Begin a phase on this rank's reals, by micro-batch, after `images` images."""
        loss = self._config
        self._images = images
        due = penalties.due(images, self._batch_size, loss.penalty_every)
        self._weight = loss.penalty_every * penalty_factor(loss, self._optim, images) if due else 0.0
        if loss.dragan and self._weight:
            self._std = self._standard_deviation(reals)

    def __call__(
        self, reals: Tensor, fakes: Tensor, labels: Tensor | None, micro_batch: int
    ) -> tuple[Tensor, Scalars]:
        """Return the loss on a micro-batch, and detached scalars: `loss_d` and both accuracies.

        Args:
            reals: float32 (n, C, R, R), before augmentation.
            fakes: As many, likewise.
            labels: int64 (n,), of both, or None.
            micro_batch: Index of the micro-batch.
        """
        config = self._config
        gamma_real, gamma_fake = self._weight * config.r1, self._weight * config.r2
        real, fake = self._outputs(reals, fakes, labels, micro_batch, gamma_real > 0, gamma_fake > 0)
        loss = self._loss.discriminator(real.logits, fake.logits)
        if gamma_real:
            loss = loss + gamma_real / 2 * real.grad_norm_sq
        if gamma_fake:
            loss = loss + gamma_fake / 2 * fake.grad_norm_sq
        if self._weight and (config.gp or config.dragan):
            penalty = self._unit_norm_penalties(real.inputs, fake.inputs, labels, micro_batch)
            loss = loss + self._weight * penalty
        real_accuracy, fake_accuracy = self._loss.accuracy(real.logits, fake.logits)
        return loss, {
            "loss_d": loss.detach(),
            "real_accuracy": real_accuracy,
            "fake_accuracy": fake_accuracy,
        }

    def _outputs(
        self,
        reals: Tensor,
        fakes: Tensor,
        labels: Tensor | None,
        micro_batch: int,
        penalise_reals: bool,
        penalise_fakes: bool,
    ) -> tuple[DiscriminatorOutput, DiscriminatorOutput]:
        """Return the outputs for reals and for fakes, from one forward pass where that is the same.

        A penalised gradient is with respect to the images before augmentation, and passes through the
        augmentation, as in StyleGAN2-ADA's and R3GAN's code.
        """
        # A pass with a penalised gradient is in float32, and the loss shares it.
        float32 = penalise_reals or penalise_fakes
        if self._separate_passes or penalise_reals != penalise_fakes:
            reals.requires_grad_(penalise_reals)
            fakes.requires_grad_(penalise_fakes)
            real_inputs = self._augment(reals, "reals-d", micro_batch=micro_batch)
            fake_inputs = self._augment(fakes, "fakes-d", micro_batch=micro_batch)
            # One context for both, since autocast caches the weights that it has cast.
            with self._precision.networks(float32=float32):
                real_logits = self._discriminator(real_inputs, labels)
                fake_logits = self._discriminator(fake_inputs, labels)
            return (
                DiscriminatorOutput(real_inputs, real_logits, _grad_norms_sq(real_logits, reals).mean()),
                DiscriminatorOutput(fake_inputs, fake_logits, _grad_norms_sq(fake_logits, fakes).mean()),
            )
        both = torch.cat([reals, fakes]).requires_grad_(float32)
        inputs = self._augment(both, "reals-d", "fakes-d", micro_batch=micro_batch)
        with self._precision.networks(float32=float32):
            logits = self._discriminator(inputs, None if labels is None else labels.repeat(2))
        parts = zip(inputs.chunk(2), logits.chunk(2), _grad_norms_sq(logits, both).chunk(2), strict=True)
        real, fake = (DiscriminatorOutput(part, out, norms_sq.mean()) for part, out, norms_sq in parts)
        return real, fake

    def _unit_norm_penalties(
        self, reals: Tensor, fakes: Tensor, labels: Tensor | None, micro_batch: int
    ) -> Tensor:
        """Return the weighted penalties on norms other than 1; each has a float32 pass of its own.

        Their points lie between, or around, augmented images.
        """
        config = self._config
        one_sided = config.gp_sides == "one"

        def critic(images: Tensor) -> Tensor:
            logits: Tensor = self._discriminator(images, labels)
            return logits

        total = reals.new_zeros(())
        if config.gp:
            mix = self._noise.uniform("mix-gp", (), self._images, micro_batch)
            penalty = penalties.gradient_penalty(
                critic, reals, fakes, mix, one_sided=one_sided, pack=self._pack
            )
            total = total + config.gp * penalty
        if config.dragan and self._std is not None:
            mix = self._noise.uniform("mix-dragan", (), self._images, micro_batch)
            noise = self._noise.uniform("noise-dragan", tuple(reals.shape[1:]), self._images, micro_batch)
            penalty = penalties.dragan(
                critic, reals, noise, mix, self._std, one_sided=one_sided, pack=self._pack
            )
            total = total + config.dragan * penalty
        return total

    def _standard_deviation(self, reals: list[Tensor]) -> Tensor:
        """Return the standard deviation of all numbers of the global batch, as in DRAGAN's code."""
        values = torch.cat([part.reshape(-1) for part in reals]).double()
        sums = torch.stack([values.sum(), values.square().sum()])
        if self._process.world_size > 1:
            dist.all_reduce(sums)
        sums /= values.numel() * self._process.world_size
        return (sums[1] - sums[0].square()).clamp(min=0).sqrt().to(reals[0].dtype)


def _grad_norms_sq(logits: Tensor, images: Tensor) -> Tensor:
    """Return |grad D|^2 at each image, (n,), or zeros for images that require no gradient."""
    if not images.requires_grad:
        return images.new_zeros(len(images))
    return penalties.gradient_norms_sq(logits, images)
