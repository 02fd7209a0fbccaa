"""One discriminator phase and one generator phase, each equal on one worker and on many."""

from __future__ import annotations

import inspect
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gan_dist import losses, randomness
from gan_dist.config import RunConfig
from gan_dist.data.loader import Batch
from gan_dist.errors import NonFiniteError
from gan_dist.models import ema
from gan_dist.training.context import Context
from gan_dist.training.state import TrainingState

# Newer versions of torch warn of the old name, older ones do not know the new one.
_DDP_OPTIONS = inspect.signature(DistributedDataParallel.__init__).parameters
SYNC_BUFFERS = "forward_sync_buffers" if "forward_sync_buffers" in _DDP_OPTIONS else "broadcast_buffers"


class Step:
    """Advances a state by discriminator and generator updates.

    The two networks are wrapped in DDP apart, since each has a backward pass of its own.

    Args:
        config: The run.
        state: What is advanced, in place.
        context: The process that this is.
    """

    def __init__(self, config: RunConfig, state: TrainingState, context: Context) -> None:
        self._config = config
        self._state = state
        self._context = context
        self._loss = losses.build(config.loss)
        self._generator = _distributed(state.generator, context)
        self._discriminator = _distributed(state.discriminator, context)

    def discriminator_phase(self, batch: Batch) -> Tensor:
        """Update the discriminator on reals and as many fakes; the clock moves on by the global batch.

        Args:
            batch: This rank's part of the global batch.

        Returns:
            The loss on this rank's part, a scalar on the device.

        Raises:
            NonFiniteError: before the update, on every rank, when any rank's gradient is not finite.
        """
        state = self._state
        reals = normalise(batch.images.to(self._context.device))
        with torch.no_grad():
            fakes = state.generator(self._latents("latents-d"))
        state.optimizer_d.zero_grad()
        loss = self._loss.discriminator(self._discriminator(reals), self._discriminator(fakes))
        loss.backward()
        self._require_finite("discriminator", state.discriminator, loss)
        state.optimizer_d.step()
        state.images += self._config.train.batch_size
        return loss.detach()

    def generator_phase(self) -> Tensor:
        """Update the generator against the frozen discriminator.

        Returns:
            The loss on this rank's part, a scalar on the device.

        Raises:
            NonFiniteError: before the update, on every rank, when any rank's gradient is not finite.
        """
        state = self._state
        # Frozen, the discriminator costs no weight gradients and no all-reduce here.
        state.discriminator.requires_grad_(False)
        state.optimizer_g.zero_grad()
        loss = self._loss.generator(state.discriminator(self._generator(self._latents("latents-g"))), None)
        loss.backward()
        state.discriminator.requires_grad_(True)
        self._require_finite("generator", state.generator, loss)
        state.optimizer_g.step()
        return loss.detach()

    def share(self, loss_d: Tensor, loss_g: Tensor, *, stop: bool) -> tuple[float, float, bool]:
        """Average over the ranks, in one all-reduce, what each has of its own after a step.

        These are the running statistics of batch normalisation, so that every rank's networks stay equal to
        the last bit; the losses; and whether any rank was asked to stop.

        Returns:
            The mean losses, and whether to stop.
        """
        flag = torch.tensor(float(stop), device=loss_d.device)
        shared = [loss_d, loss_g, flag, *self._statistics()]
        if self._context.world_size > 1:
            flat = torch.cat([tensor.reshape(-1) for tensor in shared])
            dist.all_reduce(flat)
            flat /= self._context.world_size
            sizes = [tensor.numel() for tensor in shared]
            for tensor, part in zip(shared, flat.split(sizes), strict=True):
                tensor.copy_(part.view_as(tensor))
        values = torch.stack([loss_d, loss_g, flag]).tolist()
        return values[0], values[1], values[2] > 0

    def update_average(self) -> None:
        """Move the averaged generator towards the generator."""
        config, state = self._config, self._state
        batch = config.train.batch_size * config.optim.d_steps
        beta = ema.decay(batch, state.images - batch, config.ema.half_life_kimg, config.ema.ramp_up)
        ema.update(state.average, state.generator, beta)

    def _statistics(self) -> list[Tensor]:
        networks = (self._state.generator, self._state.discriminator)
        return [b for network in networks for b in network.buffers() if b.is_floating_point()]

    def _latents(self, name: str) -> Tensor:
        """Return this rank's slice of the global batch's latents, (n, latent_dim)."""
        config, context = self._config, self._context
        batch = config.train.batch_size
        shape = (batch, config.model.latent_dim)
        latents = randomness.normal(shape, config.seed, name, self._state.images)
        share = batch // context.world_size
        return latents[context.rank * share : (context.rank + 1) * share].to(context.device)

    def _require_finite(self, what: str, network: nn.Module, loss: Tensor) -> None:
        # DDP has averaged the gradients, so one rank's infinity is seen by all of them.
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        norm = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            raise NonFiniteError(
                f"the {what}'s gradient is {norm.item()} after {self._state.images} images (its loss here: "
                f"{loss.item():.4g}); nothing was updated. Lower optim.g.lr and optim.d.lr and run the same "
                "command again: it goes on from the last checkpoint"
            )


def _distributed(network: nn.Module, context: Context) -> nn.Module:
    if context.world_size == 1:
        return network
    if context.device.type == "cuda":
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)
    # Buffers are averaged by `Step.share`; a broadcast between two forward passes would break the backward.
    options: dict[str, Any] = {SYNC_BUFFERS: False}
    return DistributedDataParallel(network, **options)


def normalise(images: Tensor) -> Tensor:
    """Return uint8 images as float32 in [-1, 1]."""
    return images.to(torch.float32).div_(127.5).sub_(1)
