"""Adversarial objectives on logits, each as its paper writes it; all are minimised.

D(x) in the papers is sigmoid(logit) here, so log D(x) = logsigmoid(logit) and log(1 - D(x)) =
logsigmoid(-logit): finite for every finite logit, and free of the cancellation in 1 - sigmoid.
A mean over one worker's batch becomes the mean over the global batch when DDP averages the gradients.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor
from torch.nn.functional import logsigmoid

from gan_dist.config import LossConfig


@dataclass(frozen=True)
class Adversarial:
    """The two sides of a game. Logits are float (B,); both sides return a scalar to minimise."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    """(real logits, fake logits) to the discriminator's loss."""
    generator: Callable[[Tensor, Tensor | None], Tensor]
    """(fake logits, real logits or None) to the generator's loss; relativistic games read the real ones."""


def build(loss: LossConfig) -> Adversarial:
    """The objective that a configuration names."""
    match loss.name:
        case "minimax":
            return Adversarial(discriminator_loss, minimax_generator_loss)
        case "nonsaturating":
            return Adversarial(discriminator_loss, nonsaturating_generator_loss)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """-E[log D(x)] - E[log(1 - D(G(z)))]: Goodfellow et al. 2014, equation 1, negated; log 4 at D = 1/2."""
    return -logsigmoid(real_logits).mean() - logsigmoid(-fake_logits).mean()


def minimax_generator_loss(fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:  # noqa: ARG001
    """E[log(1 - D(G(z)))]: Goodfellow et al. 2014, equation 1.

    Its gradient vanishes where the discriminator is sure that an image is fake.
    """
    return logsigmoid(-fake_logits).mean()


def nonsaturating_generator_loss(fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:  # noqa: ARG001
    """-E[log D(G(z))]: Goodfellow et al. 2014, end of section 3."""
    return -logsigmoid(fake_logits).mean()
