"""One discriminator phase and one generator phase, each with the same result on one worker and on many."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim.swa_utils import get_ema_multi_avg_fn

from gan_dist import models
from gan_dist.config import RateConfig, RunConfig
from gan_dist.core.distributed import Process
from gan_dist.core.errors import NonFiniteError
from gan_dist.data.batches.loader import Batch
from gan_dist.models.layers import changing_buffers
from gan_dist.training import eager
from gan_dist.training.augment import DiscriminatorInput, ada
from gan_dist.training.context import Context
from gan_dist.training.ddp import distributed
from gan_dist.training.discriminator_loss import DiscriminatorObjective, Scalars
from gan_dist.training.generator_loss import GeneratorObjective
from gan_dist.training.noise import StepNoise, latents
from gan_dist.training.path_length import PathLengthPenalty, WithPathLengths
from gan_dist.training.precision import PrecisionPolicy
from gan_dist.training.profile import StepProfile, count_sent, reduction
from gan_dist.training.schedule import augment_p, betas, ema_decay, half_life, rate_factor
from gan_dist.training.state import AugmentStrength, TrainingState

ADJUST_EVERY = 4
"""Rounds between two adjustments of the augmentation's strength: Karras et al. 2020 (ADA), section 3.1."""


class Step:
    """Advances a training state, in place, by discriminator and generator updates.

    The two networks are wrapped in DDP separately, since each has its own backward pass.

    Raises:
        ConfigError: the device does not support the configured precision or compilation.
    """

    def __init__(self, config: RunConfig, state: TrainingState, process: Process) -> None:
        self._scheduled, self._state, self._process = config, state, process
        config = self._config = config.at(state.images)
        loss, train = config.loss, config.train
        networks = (state.generator, state.discriminator)
        self._precision = PrecisionPolicy.of(
            train,
            process.device,
            penalised=loss.differentiated_twice,
            synchronised=process.world_size > 1 and any(map(models.uses_batch_statistics, networks)),
        )
        self._noise = StepNoise(config.seed, train, state, process)
        if self._precision.compiled:
            for network in networks:
                network.compile()
        self._trained_d = [weights for weights in state.discriminator.parameters() if weights.requires_grad]
        """The discriminator's parameters but for those of frozen stages (`init.freeze_d`)."""
        self._path_length = PathLengthPenalty(loss, config.optim.d_steps, state, self._noise)
        generator: nn.Module = state.generator
        if loss.path_length:
            generator = WithPathLengths.of(state.generator, config.model.name)
        # Synchronised batch normalisation cannot be differentiated twice, as penalties need.
        self._generator = distributed(generator, process, synchronised=not loss.path_length)
        self._discriminator = distributed(state.discriminator, process, synchronised=not loss.penalised)
        augment = DiscriminatorInput(config.data, loss, config.optim, state, self._noise)
        self._augment = augment
        self._discriminator_objective = DiscriminatorObjective(
            loss, config.optim, state, self._discriminator, self._precision, self._noise, augment
        )
        self._generator_objective = GeneratorObjective(
            loss,
            state,
            self._generator,
            self._precision,
            self._noise,
            augment,
            self._path_length,
            self._reals,
        )

    def begin_round(self) -> None:
        """Begin a round, in which keys that change within the run have their values of this moment.

        A round is `optim.d_steps` discriminator updates, the generator's and the average's. So a value of
        40 kimg acts from the first round on that begins at 40000 images or later.
        """
        if self._scheduled.schedules:
            config = self._config = self._scheduled.at(self._state.images)
            self._augment.data, self._augment.loss = config.data, config.loss
            self._path_length.loss = config.loss
            self._discriminator_objective.use(config.loss)
            self._generator_objective.use(config.loss)

    def profile(self, steps: int, run_uri: str, context: Context) -> StepProfile:
        """Return what measures so many rounds of this process; see `StepProfile`."""
        images = self._config.train.batch_size * self._config.optim.d_steps // context.world_size
        precision = self._precision
        return StepProfile(
            steps, run_uri, context, images=images, bf16=precision.bf16, compiled=precision.compiled
        )

    def discriminator_phase(self, batch: Batch) -> Scalars:
        """Update the discriminator on reals and as many fakes; the clock advances by the global batch.

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
        micro_batches = self._micro_batches(batch)
        reals = [self._reals(pixels, "mirror-d", index) for index, (pixels, _) in enumerate(micro_batches)]
        self._discriminator_objective.begin(reals)
        for index, (_, labels) in enumerate(micro_batches):
            with torch.no_grad(), self._precision.networks():
                fakes = state.generator(latents(self._noise, "latents-d", state.generator, index), labels)
            with self._all_reduce_last(self._discriminator, index):
                loss, scalars = self._discriminator_objective(reals[index], fakes, labels, index)
                (loss / config.train.accumulate).backward()
            for name, value in scalars.items():
                sums[name] = sums.get(name, 0) + value / config.train.accumulate
        norm = self._finite_norm("discriminator", state.discriminator, sums["loss_d"])
        self._update(state.optimizer_d, config.optim.d)
        if config.loss.clip:
            with torch.no_grad():
                for weights in self._trained_d:
                    weights.clamp_(-config.loss.clip, config.loss.clip)
        self._discriminator_objective.end()
        state.images += config.train.batch_size
        return {**sums, "grad_norm_d": norm}

    def generator_phase(self, batch: Batch) -> Scalars:
        """Update the generator against the discriminator, which stays as it is.

        Args:
            batch: The discriminator's last; relativistic losses compare with its images, conditional
                generators use its classes.

        Returns:
            Scalars on the device, over this rank's part: `loss_g`, `grad_norm_g` and, with
            `loss.path_length`, `path_length`, the mean length where it is computed.

        Raises:
            NonFiniteError: before the update, on every rank, when any rank's gradient is not finite.
        """
        state = self._state
        # Without gradients of its weights the discriminator costs less, and no all-reduce.
        state.discriminator.requires_grad_(False)
        state.optimizer_g.zero_grad()
        models.update_spectral_norms(state.discriminator)
        sums: Scalars = {}
        accumulate = self._config.train.accumulate
        micro_batches = self._micro_batches(batch)
        self._generator_objective.begin(micro_batches)
        for index, (pixels, labels) in enumerate(micro_batches):
            with self._all_reduce_last(self._generator, index):
                loss, scalars = self._generator_objective(pixels, labels, index)
                (loss / accumulate).backward()
            for name, value in scalars.items():
                sums[name] = sums.get(name, 0) + value / accumulate
        for weights in self._trained_d:
            weights.requires_grad_(True)
        norm = self._finite_norm("generator", state.generator, sums["loss_g"])
        self._update(state.optimizer_g, self._config.optim.g)
        return {**sums, "grad_norm_g": norm}

    def average_over_ranks(self, scalars: Scalars, *, stop: bool) -> tuple[dict[str, float], bool]:
        """Average over the ranks, in one all-reduce, the values that differ between them after a round.

        These are the running statistics of batch normalisation, so that every rank's networks stay equal to
        the last bit; the scalars of the phases; and whether any rank wants to stop.

        Returns:
            The mean scalars, with `augment_p` if the augmentation is ADA, and whether to stop. With
            `loss.path_length`, `path_length` is the running mean, which this has moved.
        """
        # One more element would shift the others between the all-reduce's chunks, and so change the order in
        # which three or more ranks are added: runs would go on to other bits.
        stops = torch.tensor(float(stop), device=self._process.device)
        reduced = torch.stack([*(value.float() for value in scalars.values()), stops])
        networks = (self._state.generator, self._state.discriminator)
        buffers = [b for network in networks for b in changing_buffers(network) if b.is_floating_point()]
        tensors = [reduced, *buffers]
        if self._process.world_size > 1:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors])
            dist.all_reduce(flat)
            count_sent(flat.numel())
            flat /= self._process.world_size
            sizes = [tensor.numel() for tensor in tensors]
            for tensor, part in zip(tensors, flat.split(sizes), strict=True):
                tensor.copy_(part.view_as(tensor))
        *values, stopping = reduced.tolist()
        means = dict(zip(scalars, values, strict=True))
        data, state = self._config.data, self._state
        if self._augment.augmentation.adaptive:
            if data.augment_p is None:
                self._adjust_augmentation(means["real_accuracy"])
            means["augment_p"] = augment_p(data, self._config.optim, state.augment.p, state.images)
        if "path_length" in means:
            means["path_length"] = self._path_length.update(means["path_length"])
        return means, stopping > 0

    def update_average(self) -> None:
        """Move the averaged generator towards the generator."""
        config, state = self._config, self._state
        batch = config.train.batch_size * config.optim.d_steps
        before = half_life(config.ema, config.optim, state.images - batch)
        update_ema(state.average, state.generator, ema_decay(batch, before))

    def _adjust_augmentation(self, real_accuracy: float) -> None:
        data, strength = self._config.data, self._state.augment
        strength.signs += 2 * real_accuracy - 1
        strength.rounds += 1
        if strength.rounds == ADJUST_EVERY:
            images = ADJUST_EVERY * self._config.train.batch_size * self._config.optim.d_steps
            mean = max(-1.0, min(1.0, strength.signs / ADJUST_EVERY))
            p = ada.adjusted(strength.p, mean, images, target=data.augment_target, kimg=data.augment_kimg)
            self._state.augment = AugmentStrength(p)

    def _micro_batches(self, batch: Batch) -> list[tuple[Tensor, Tensor | None]]:
        count = self._config.train.accumulate
        pixels = batch.images.chunk(count)
        if not self._config.model.conditional or batch.labels is None:
            return [(part, None) for part in pixels]
        return list(zip(pixels, batch.labels.to(self._process.device).chunk(count), strict=True))

    def _reals(self, pixels: Tensor, name: str, micro_batch: int) -> Tensor:
        images = self._precision.images(pixels)
        if not self._config.data.mirror:
            return images
        drawn = self._noise.uniform(name, (1, 1, 1), micro_batch)
        return torch.where(drawn < 0.5, images.flip(3), images)

    def _all_reduce_last(self, network: nn.Module, micro_batch: int) -> AbstractContextManager[object]:
        """Return the context of a micro-batch's passes; only the last one all-reduces gradients."""
        if micro_batch < self._config.train.accumulate - 1 and isinstance(network, DistributedDataParallel):
            return network.no_sync()
        return reduction(network) if isinstance(network, DistributedDataParallel) else nullcontext()

    def _update(self, optimizer: torch.optim.Optimizer, rate: RateConfig) -> None:
        optim, images = self._config.optim, self._state.images
        for group in optimizer.param_groups:
            group["lr"] = rate.lr * rate_factor(optim, images)
            if optim.name == "adam":
                group["betas"] = betas(rate, optim, images)
            else:
                group["alpha"] = rate.beta2
        eager.update(optimizer)

    def _finite_norm(self, name: str, network: nn.Module, loss: Tensor) -> Tensor:
        """Return the norm of a gradient before it is clipped to `optim.clip_norm`."""
        # DDP has averaged the gradients, so one rank's infinity is seen by all of them.
        gradients = [p.grad for p in network.parameters() if p.grad is not None]
        norm: Tensor = torch.nn.utils.get_total_norm(gradients)
        if not torch.isfinite(norm):
            raise NonFiniteError(
                f"the {name}'s gradient is {norm.item()} after {self._state.images} images (its loss here: "
                f"{loss.item():.4g}); nothing was updated",
                "begin another run (name=...) with a lower optim.g.lr and optim.d.lr; this one would come to "
                "the same again",
                keys=("optim.g.lr", "optim.d.lr"),
            )
        if limit := self._config.optim.clip_norm:
            torch.nn.utils.clip_grads_with_norm_(network.parameters(), limit, norm)
        return norm


@torch.no_grad()
def update_ema(average: nn.Module, model: nn.Module, beta: float) -> None:
    """Set the parameters of `average` to beta * average + (1 - beta) * model; copy the model's buffers.

    Raises:
        ValueError: beta is outside [0, 1], or the modules differ in their number of parameters or buffers.
    """
    averaged, current = list(average.parameters()), list(model.parameters())
    if len(averaged) != len(current):
        raise ValueError(f"the average has {len(averaged)} parameters, the model has {len(current)}")
    if averaged:
        # One call for all parameters: on a GPU, small kernels one by one would cost more than the sums.
        get_ema_multi_avg_fn(beta)(averaged, current, None)
    for old, new in zip(average.buffers(), model.buffers(), strict=True):
        old.copy_(new)
