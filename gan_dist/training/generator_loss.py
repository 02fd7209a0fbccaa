"""Loss of the generator on a micro-batch: the adversarial loss, of all fakes or the best, path lengths."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan_dist.config import LossConfig
from gan_dist.training import losses, top_k
from gan_dist.training.augment import DiscriminatorInput
from gan_dist.training.noise import StepNoise, latents
from gan_dist.training.path_length import PathLengthPenalty
from gan_dist.training.precision import PrecisionPolicy
from gan_dist.training.profile import phase
from gan_dist.training.schedule import top_k_share
from gan_dist.training.state import TrainingState

MicroBatch = tuple[Tensor, Tensor | None]
"""Pixels of reals, uint8 (n, C, H, W), and their classes, int64 (n,), or None."""


@dataclass
class GeneratorObjective:
    """The generator's loss with its penalty: `begin` a phase, then call it for each micro-batch."""

    loss: LossConfig
    state: TrainingState
    generator: nn.Module
    """That of the state, or `WithPathLengths`, or DDP around one of them."""
    precision: PrecisionPolicy
    noise: StepNoise
    augment: DiscriminatorInput
    path_length: PathLengthPenalty
    reals: Callable[[Tensor, str, int], Tensor]
    """Pixels, the name of their random numbers and the micro-batch's index to real images."""

    def __post_init__(self) -> None:
        self._adversarial = losses.build(self.loss)
        self._share = 1.0
        self._best: top_k.TopK | None = None
        self._count = 1

    def use(self, loss: LossConfig) -> None:
        """Take the section `loss` with other values of what may change within a run."""
        self.loss = self._adversarial.loss = loss

    def begin(self, micro_batches: Sequence[MicroBatch]) -> None:
        """Begin a phase; of fakes in several portions the best are chosen here, before any loss."""
        self._share, self._best = top_k_share(self.loss, self.state.images), None
        self._count = len(micro_batches)
        if self._share == 1 or self._count == 1:
            return
        logits = []
        with torch.no_grad(), self._networks():
            for index, (_, labels) in enumerate(micro_batches):
                fakes = self.state.generator(self._latents(index), labels)
                logits.append(self._judged(fakes, labels, index))
        self._best = top_k.choose(torch.cat(logits), self._share, self.noise.process)

    def __call__(
        self, pixels: Tensor, labels: Tensor | None, micro_batch: int
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """Return the loss on a micro-batch, and detached scalars.

        These are `loss_g` and, with `loss.path_length`, `path_length`: the mean length, 0 where it is not
        computed.

        Args:
            pixels: uint8 (n, C, H, W) of reals, with which relativistic losses compare.
            labels: int64 (n,), or None.
            micro_batch: Its index.
        """
        with self._networks():
            fakes, lengths = self._generate(labels, micro_batch)
            fake_logits = self._judged(fakes, labels, micro_batch)
            real_logits = self._judged_reals(pixels, labels, micro_batch)
        if self._best is None and self._share < 1:
            self._best = top_k.choose(fake_logits, self._share, self.noise.process)
        if self._best is None:
            loss = self._adversarial.generator(fake_logits, real_logits)
        else:
            best = self._best.portion(micro_batch, self._count)
            loss = best.loss(self._adversarial.generator, fake_logits)
        length = torch.zeros((), device=loss.device)
        if lengths is not None:
            with phase("penalties"):
                loss, length = loss + self.path_length.penalty(lengths), lengths.detach().mean()
        scalars = {"loss_g": loss.detach()}
        return loss, scalars | {"path_length": length} if self.loss.path_length else scalars

    def _networks(self) -> AbstractContextManager[object]:
        return self.precision.networks(float32=self.path_length.due)

    def _generate(self, labels: Tensor | None, micro_batch: int) -> tuple[Tensor, Tensor | None]:
        """Return the generator's images and, in updates that penalise them, the lengths of its paths."""
        given = self._latents(micro_batch)
        if not self.loss.path_length:
            return self.generator(given, labels), None
        images, lengths = self.generator(given, labels, self.path_length.directions(micro_batch))
        return images, lengths

    def _judged(self, fakes: Tensor, labels: Tensor | None, micro_batch: int) -> Tensor:
        inputs = self.augment(fakes, "fakes-g", micro_batch=micro_batch)
        logits: Tensor = self.state.discriminator(inputs, labels)
        return logits

    def _judged_reals(self, pixels: Tensor, labels: Tensor | None, micro_batch: int) -> Tensor | None:
        """Return the logits of reals, without a gradient; None if the loss does not compare with them."""
        if not self._adversarial.relativistic:
            return None
        reals = self.reals(pixels, "mirror-g", micro_batch)
        inputs = self.augment(reals, "reals-g", micro_batch=micro_batch)
        with torch.no_grad():
            logits: Tensor = self.state.discriminator(inputs, labels)
        return logits

    def _latents(self, micro_batch: int) -> Tensor:
        return latents(self.noise, "latents-g", self.state.generator, micro_batch)
