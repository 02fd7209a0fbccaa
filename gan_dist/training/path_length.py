"""Path length regularisation: Karras et al. 2020 (StyleGAN2), section 3.2."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gan_dist.config import LossConfig
from gan_dist.core.errors import ConfigError
from gan_dist.models import Generator
from gan_dist.models.styled import StyledGenerator
from gan_dist.training.noise import StepNoise
from gan_dist.training.penalties import penalties_due
from gan_dist.training.state import TrainingState

DECAY = 0.01
"""Share of the newest lengths in the running mean (the paper's appendix B)."""


class WithPathLengths(nn.Module):
    """A generator that also returns the lengths of its paths.

    DDP wraps it as one module, so that the gradients of both outputs are averaged in one exchange.
    """

    def __init__(self, generator: StyledGenerator) -> None:
        super().__init__()
        self.generator = generator

    @classmethod
    def of(cls, generator: Generator, name: str) -> WithPathLengths:
        """Return this around a generator; raise a ConfigError if it has no w."""
        if not isinstance(generator, StyledGenerator):
            raise ConfigError(
                "loss.path_length regularises the step from w to images, and the generator of "
                f"model.name={name} has no w",
                "use model.name=stylegan2, or loss.path_length=0",
                keys=("loss.path_length", "model.name"),
            )
        return cls(generator)

    def forward(
        self, latents: Tensor, labels: Tensor | None, directions: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return images float32 (B, C, H, W), and the length |J^T y| for each, float32 (B,).

        J is the Jacobian of the image with respect to w, and y has the standard deviation 1 / sqrt(H W),
        which makes lengths independent of the resolution. Where an image has a w for each of L layers, the
        square of the length is the mean over the layers, as in the authors' implementation.

        Args:
            latents: float32 (B, latent_dim) or (B, L, latent_dim).
            labels: int64 (B,), or None.
            directions: float32 (B, C, H, W) from N(0, 1); None for no lengths.
        """
        if directions is None:
            images: Tensor = self.generator(latents, labels)
            return images, None
        images, w = self.generator.with_w(latents, labels)
        product = (images * directions).sum() / math.sqrt(images.shape[2] * images.shape[3])
        (gradient,) = torch.autograd.grad(product, w, create_graph=True)
        # Not the root of a sum of squares: at zero its derivative is infinite, this one's is zero.
        lengths = torch.linalg.vector_norm(gradient.flatten(1), dim=1)
        return images, lengths / w.shape[1] ** 0.5


@dataclass
class PathLengthPenalty:
    """The penalty of the generator's updates, every `loss.path_length_every` of them."""

    loss: LossConfig
    d_steps: int
    """Discriminator updates for one of the generator."""
    state: TrainingState
    noise: StepNoise

    @property
    def due(self) -> bool:
        """Whether the next generator update, or the one just made, has the penalty."""
        loss, batch = self.loss, self.noise.train.batch_size * self.d_steps
        before = self.state.images - batch
        return loss.path_length > 0 and penalties_due(before, batch, loss.path_length_every)

    def directions(self, micro_batch: int) -> Tensor | None:
        """Return y before its scaling, N(0, 1) numbers of the images' shape; None if it is not due."""
        if not self.due:
            return None
        shape = self.state.shape
        return self.noise.normal("path-g", (shape.channels, *shape.size), micro_batch)

    def penalty(self, lengths: Tensor) -> Tensor:
        """Return E[(|J^T y| - a)^2], with its weight: Karras et al. 2020, path length regularisation.

        a is the running mean of the lengths. The paper's includes those of this update, which here enter it
        afterwards: so the portions of a batch need not wait for one another. As y is divided by R and squares
        are averaged over L = 2 log2(R) - 2 layers, a weight of 2 is the paper's 2 / (R^2 L) = ln 2 / (R^2 (ln
        R - ln 2)) (appendix B).
        """
        weight = self.loss.path_length * self.loss.path_length_every
        return weight * (lengths - self.state.path_length).square().mean()

    def update(self, newest: float) -> float:
        """Move the running mean towards the lengths of the update just made, if it has any; return it."""
        if self.due:
            self.state.path_length += DECAY * (newest - self.state.path_length)
        return self.state.path_length
