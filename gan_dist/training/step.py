"""One discriminator phase and one generator phase, each equal on one worker and on many."""

from __future__ import annotations

import inspect
import warnings
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gan_dist import models
from gan_dist.config import RateConfig, RunConfig
from gan_dist.core.errors import NonFiniteError
from gan_dist.data.batches.loader import Batch
from gan_dist.training import ema, losses
from gan_dist.training.augment import ada
from gan_dist.training.checkpoint import TrainingState
from gan_dist.training.context import Context
from gan_dist.training.discriminator_input import DiscriminatorInput
from gan_dist.training.discriminator_loss import DiscriminatorObjective, Scalars
from gan_dist.training.noise import StepNoise
from gan_dist.training.precision import PrecisionPolicy
from gan_dist.training.schedule import betas, rate_factor

# Newer versions of torch warn of the old name, older ones do not know the new one.
_DDP_OPTIONS = inspect.signature(DistributedDataParallel.__init__).parameters
SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _DDP_OPTIONS else "broadcast_buffers"

ADJUST_EVERY = 4
"""Rounds between two adjustments of the augmentation's strength: Karras et al. 2020 (ADA), section 3.1."""


class Step:
    """Advances a state by discriminator and generator updates.

    The two networks are wrapped in DDP apart, since each has a backward pass of its own.

    Args:
        config: The run.
        state: What is advanced, in place.
        context: The process that this is.

    Raises:
        ConfigError: the device cannot compute as configured.
    """

    def __init__(self, config: RunConfig, state: TrainingState, context: Context) -> None:
        self._config = config
        self._state = state
        self._context = context
        self._loss = losses.build(config.loss)
        uses_batch_statistics = models.uses_batch_statistics(state.generator) or models.uses_batch_statistics(
            state.discriminator
        )
        self._arithmetic = PrecisionPolicy.of(
            config, context.device, synchronised=uses_batch_statistics and context.world_size > 1
        )
        self._draws = StepNoise(config, context)
        if self._arithmetic.compiled:
            state.generator.compile()
            state.discriminator.compile()
        self._generator = _distributed(state.generator, context)
        # Synchronised batch normalisation cannot be differentiated twice, as penalties need.
        self._discriminator = _distributed(state.discriminator, context, together=not config.loss.penalised)
        self._view = DiscriminatorInput(config, state, self._draws)
        self._objective = DiscriminatorObjective(
            config, context, self._discriminator, self._arithmetic, self._draws, self._view
        )

    # The discriminator

    def discriminator_phase(self, batch: Batch) -> Scalars:
        """Update the discriminator on reals and as many fakes; the clock moves on by the global batch.

        Args:
            batch: This rank's part of the global batch.

        Returns:
            Scalars on the device, over this rank's part: `loss_d`, `real_accuracy`, `fake_accuracy` and
            `grad_norm_d`.

        Raises:
            NonFiniteError: before the update, on every rank, when any rank's gradient is not finite.
        """
        state, config = self._state, self._config
        state.optimizer_d.zero_grad()
        models.update_spectral_norms(state.discriminator)
        sums: Scalars = {}
        parts = self._portions(batch)
        portions = [self._reals(part, "mirror-d", portion) for portion, (part, _) in enumerate(parts)]
        self._objective.begin(portions, state.images)
        for portion, (reals, (_, labels)) in enumerate(zip(portions, parts, strict=True)):
            with torch.no_grad(), self._arithmetic.networks():
                fakes = state.generator(self._latents("latents-d", portion), labels)
            with self._reduced(self._discriminator, portion):
                loss, scalars = self._objective(reals, fakes, labels, portion)
                (loss / config.train.accumulate).backward()
            for name, value in scalars.items():
                sums[name] = sums.get(name, 0) + value / config.train.accumulate
        norm = self._finite_norm("discriminator", state.discriminator, sums["loss_d"])
        self._update(state.optimizer_d, config.optim.d)
        if config.loss.clip:
            with torch.no_grad():
                for weights in state.discriminator.parameters():
                    weights.clamp_(-config.loss.clip, config.loss.clip)
        state.images += config.train.batch_size
        return {**sums, "grad_norm_d": norm}

    # The generator

    def generator_phase(self, batch: Batch) -> Scalars:
        """Update the generator against the frozen discriminator.

        Args:
            batch: The discriminator's last; relativistic losses compare with its images, conditional
                generators are given its classes.

        Returns:
            Scalars on the device, over this rank's part: `loss_g` and `grad_norm_g`.

        Raises:
            NonFiniteError: before the update, on every rank, when any rank's gradient is not finite.
        """
        state, config = self._state, self._config
        # Frozen, the discriminator costs no weight gradients and no all-reduce here.
        state.discriminator.requires_grad_(False)
        state.optimizer_g.zero_grad()
        models.update_spectral_norms(state.discriminator)
        total = torch.zeros((), device=self._context.device)
        for portion, (part, labels) in enumerate(self._portions(batch)):
            with self._reduced(self._generator, portion):
                with self._arithmetic.networks():
                    fakes = self._generator(self._latents("latents-g", portion), labels)
                    fake_logits = state.discriminator(self._view(fakes, "fakes-g", portion=portion), labels)
                    real_logits = None
                    if self._loss.relativistic:
                        reals = self._reals(part, "mirror-g", portion)
                        reals = self._view(reals, "reals-g", portion=portion)
                        with torch.no_grad():
                            real_logits = state.discriminator(reals, labels)
                loss = self._loss.generator(fake_logits, real_logits) / config.train.accumulate
                loss.backward()
            total += loss.detach()
        state.discriminator.requires_grad_(True)
        norm = self._finite_norm("generator", state.generator, total)
        self._update(state.optimizer_g, config.optim.g)
        return {"loss_g": total, "grad_norm_g": norm}

    # After both

    def share(self, scalars: Scalars, *, stop: bool) -> tuple[dict[str, float], bool]:
        """Average over the ranks, in one all-reduce, what each has of its own after a round.

        These are the running statistics of batch normalisation, so that every rank's networks stay equal to
        the last bit; the scalars of the phases; and whether any rank was asked to stop.

        Returns:
            The mean scalars, and whether to stop.
        """
        flag = torch.tensor(float(stop), device=self._context.device)
        told = torch.stack([*(value.float() for value in scalars.values()), flag])
        shared = [told, *self._statistics()]
        if self._context.world_size > 1:
            flat = torch.cat([tensor.reshape(-1) for tensor in shared])
            dist.all_reduce(flat)
            flat /= self._context.world_size
            sizes = [tensor.numel() for tensor in shared]
            for tensor, part in zip(shared, flat.split(sizes), strict=True):
                tensor.copy_(part.view_as(tensor))
        *values, stopped = told.tolist()
        means = dict(zip(scalars, values, strict=True))
        if self._config.data.augment == "ada" and self._config.data.augment_p is None:
            self._adjust_augmentation(means["real_accuracy"])
        return means, stopped > 0

    def update_average(self) -> None:
        """Move the averaged generator towards the generator."""
        config, state = self._config, self._state
        batch = config.train.batch_size * config.optim.d_steps
        beta = ema.decay(batch, state.images - batch, config.ema.half_life_kimg, config.ema.ramp_up)
        ema.update(state.average, state.generator, beta)

    def _adjust_augmentation(self, real_accuracy: float) -> None:
        data, strength = self._config.data, self._state.augment
        strength.signs += 2 * real_accuracy - 1
        strength.rounds += 1
        if strength.rounds == ADJUST_EVERY:
            images = ADJUST_EVERY * self._config.train.batch_size * self._config.optim.d_steps
            mean = max(-1.0, min(1.0, strength.signs / ADJUST_EVERY))
            strength.p = ada.adjusted(
                strength.p, mean, images, target=data.augment_target, kimg=data.augment_kimg
            )
            strength.signs, strength.rounds = 0.0, 0

    # What both phases use

    def _portions(self, batch: Batch) -> list[tuple[Tensor, Tensor | None]]:
        """Return a batch's images, uint8, and labels, in the portions that are computed at a time."""
        count = self._config.train.accumulate
        reals = batch.images.chunk(count)
        if not self._config.model.conditional:
            return [(part, None) for part in reals]
        assert batch.labels is not None
        return list(zip(reals, batch.labels.to(self._context.device).chunk(count), strict=True))

    def _reals(self, pixels: Tensor, name: str, portion: int) -> Tensor:
        """Return a portion's real images, float32 in [-1, 1], mirrored where numbers of that name say so."""
        images = self._arithmetic.images(pixels)
        if not self._config.data.mirror:
            return images
        drawn = self._draws.uniform(name, (1, 1, 1), self._state.images, portion)
        return torch.where(drawn < 0.5, images.flip(3), images)

    def _reduced(self, network: nn.Module, portion: int) -> AbstractContextManager[object]:
        """Return the context of a portion's passes, in which gradients are all-reduced by the last alone."""
        if portion < self._config.train.accumulate - 1 and isinstance(network, DistributedDataParallel):
            return network.no_sync()
        return nullcontext()

    def _latents(self, name: str, portion: int) -> Tensor:
        """Return a portion's latents, (n, latent_dim)."""
        return self._draws.normal(name, (self._config.model.latent_dim,), self._state.images, portion)

    def _update(self, optimizer: torch.optim.Optimizer, rate: RateConfig) -> None:
        optim, clock = self._config.optim, self._state.images
        for group in optimizer.param_groups:
            group["lr"] = rate.lr * rate_factor(optim, clock)
            if optim.name == "adam":
                group["betas"] = betas(rate, optim, clock)
        optimizer.step()

    def _statistics(self) -> list[Tensor]:
        networks = (self._state.generator, self._state.discriminator)
        return [b for network in networks for b in network.buffers() if b.is_floating_point()]

    def _finite_norm(self, what: str, network: nn.Module, loss: Tensor) -> Tensor:
        """Return the norm of a network's gradient, which is then cut down to `optim.clip_norm`."""
        # DDP has averaged the gradients, so one rank's infinity is seen by all of them.
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        norm: Tensor = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            raise NonFiniteError(
                f"the {what}'s gradient is {norm.item()} after {self._state.images} images (its loss here: "
                f"{loss.item():.4g}); nothing was updated. Begin another run (name=...) with a lower "
                "optim.g.lr and optim.d.lr",
                "this one would come to the same again",
            )
        if limit := self._config.optim.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(network.parameters(), limit, norm)
        return norm


def _distributed(network: nn.Module, context: Context, *, together: bool = True) -> nn.Module:
    """Return a network whose gradients are averaged over the ranks.

    On GPUs batch normalisation then sees the global batch, if `together`; otherwise each rank's own part.
    """
    if context.world_size == 1:
        return network
    if context.device.type == "cuda" and together:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    # Of a convolution from one channel both layouts are the same, and its gradient may come in either.
    warnings.filterwarnings("ignore", "Grad strides do not match bucket view strides")
    # Buffers are averaged by `Step.share`; a broadcast between two forward passes would break the backward.
    options: dict[str, Any] = {SYNC_BUFFERS: False, "gradient_as_bucket_view": True}
    return DistributedDataParallel(network, **options)
