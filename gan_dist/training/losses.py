"""Adversarial objectives on logits, each as its paper writes it; all are minimised.

Where a paper's D is a probability it is sigmoid(logit) here, so log D(x) = logsigmoid(logit) and
log(1 - D(x)) = logsigmoid(-logit): finite for every finite logit, and free of the cancellation in
1 - sigmoid. Elsewhere D is the logit itself. A mean over one worker's batch becomes the mean over the global
batch when DDP averages the gradients; this holds for all of them, the paired ones included.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from gan_dist.config import LossConfig


@dataclass(frozen=True)
class Adversarial:
    """Losses of both networks. Logits are float (B,); both losses are scalars to minimise."""

    discriminator: Callable[[Tensor, Tensor], Tensor]
    """(real logits, fake logits) to the discriminator's loss."""
    generator: Callable[[Tensor, Tensor | None], Tensor]
    """(fake logits, real logits or None) to the generator's loss; only relativistic losses use the latter."""
    accuracy: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]
    """(real logits, fake logits) to the accuracies on reals and on fakes, float32 scalars in [0, 1] without a
    gradient. A real is correct above a threshold, a fake below it: 0, or 1/2 for `lsgan`, whatever the label
    smoothing. `wgan`, `wgan-gp` and `rpgan` do not change when a constant is added to all logits; both
    accuracies are then the share of the pairs (i, i) whose real has the larger logit."""
    relativistic: bool
    """Whether the generator's loss needs the real logits."""


def build(loss: LossConfig) -> Adversarial:
    """Return the objective of a configuration, with label smoothing and without penalties."""
    smoothing = loss.label_smoothing
    match loss.name:
        case "minimax":
            discriminator = partial(discriminator_loss, smoothing=smoothing)
            return Adversarial(discriminator, minimax_generator_loss, _accuracy, relativistic=False)
        case "nonsaturating":
            discriminator = partial(discriminator_loss, smoothing=smoothing)
            return Adversarial(discriminator, nonsaturating_generator_loss, _accuracy, relativistic=False)
        case "lsgan":
            discriminator = partial(lsgan_discriminator_loss, smoothing=smoothing)
            accuracy = partial(_accuracy, threshold=0.5)
            return Adversarial(discriminator, lsgan_generator_loss, accuracy, relativistic=False)
        case "wgan" | "wgan-gp":
            return Adversarial(wgan_discriminator_loss, critic_generator_loss, _ranking, relativistic=False)
        case "hinge":
            return Adversarial(hinge_discriminator_loss, critic_generator_loss, _accuracy, relativistic=False)
        case "rpgan":
            return Adversarial(rpgan_discriminator_loss, rpgan_generator_loss, _ranking, relativistic=True)


def discriminator_loss(real_logits: Tensor, fake_logits: Tensor, smoothing: float = 0.0) -> Tensor:
    """-E[log D(x)] - E[log(1 - D(G(z)))]: Goodfellow et al. 2014, equation 1, negated; log 4 at D = 1/2.

    With `smoothing` s the first term is the cross-entropy with a target of 1 - s, -E[(1 - s) log D(x) +
    s log(1 - D(x))], and the second is unchanged: one-sided label smoothing, Salimans et al. 2016,
    section 3.4.
    """
    real = (1 - smoothing) * logsigmoid(real_logits)
    if smoothing:
        real = real + smoothing * logsigmoid(-real_logits)
    return -real.mean() - logsigmoid(-fake_logits).mean()


def minimax_generator_loss(fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:  # noqa: ARG001
    """E[log(1 - D(G(z)))]: Goodfellow et al. 2014, equation 1.

    Its gradient vanishes as D(G(z)) goes to 0.
    """
    return logsigmoid(-fake_logits).mean()


def nonsaturating_generator_loss(fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:  # noqa: ARG001
    """-E[log D(G(z))]: Goodfellow et al. 2014, end of section 3."""
    return -logsigmoid(fake_logits).mean()


def lsgan_discriminator_loss(real_logits: Tensor, fake_logits: Tensor, smoothing: float = 0.0) -> Tensor:
    """1/2 E[(D(x) - 1 + s)^2] + 1/2 E[D(G(z))^2], s = `smoothing`: Mao et al. 2017, equation 9 at s = 0."""
    return 0.5 * (real_logits - (1 - smoothing)).square().mean() + 0.5 * fake_logits.square().mean()


def lsgan_generator_loss(fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:  # noqa: ARG001
    """1/2 E[(D(G(z)) - 1)^2]: Mao et al. 2017, equation 9."""
    return 0.5 * (fake_logits - 1).square().mean()


def wgan_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E[D(G(z))] - E[D(x)]: Arjovsky et al. 2017, algorithm 1, negated.

    It is unbounded: clipping or a penalty has to limit the critic's gradient.
    """
    return fake_logits.mean() - real_logits.mean()


def hinge_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E[max(0, 1 - D(x))] + E[max(0, 1 + D(G(z)))]: Miyato et al. 2018, equation 16, negated."""
    return relu(1 - real_logits).mean() + relu(1 + fake_logits).mean()


def critic_generator_loss(fake_logits: Tensor, real_logits: Tensor | None = None) -> Tensor:  # noqa: ARG001
    """-E[D(G(z))]: Arjovsky et al. 2017, algorithm 1, and Miyato et al. 2018, equation 17."""
    return -fake_logits.mean()


def rpgan_discriminator_loss(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    """E[softplus(-(D(x) - D(G(z))))], x and z paired by index; log 2 at D(x) = D(G(z)).

    Jolicoeur-Martineau 2018, relativistic GAN; Huang et al. 2024 (R3GAN), equation 2, negated.

    Raises:
        ValueError: when the two have different shapes.
    """
    return -logsigmoid(_margins(real_logits, fake_logits)).mean()


def rpgan_generator_loss(fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
    """E[softplus(-(D(G(z)) - D(x)))], x and z paired by index: the discriminator's loss, reals for fakes.

    Jolicoeur-Martineau 2018; it does not saturate, unlike the negated loss of the discriminator.

    Raises:
        ValueError: when real logits are missing, or the two have different shapes.
    """
    if real_logits is None:
        raise ValueError("the generator's side of rpgan needs real logits, one for each fake")
    return -logsigmoid(-_margins(real_logits, fake_logits)).mean()


def _margins(real_logits: Tensor, fake_logits: Tensor) -> Tensor:
    if real_logits.shape != fake_logits.shape:
        raise ValueError(
            f"pairs need as many real logits as fake ones; these are of shape {tuple(real_logits.shape)} and "
            f"{tuple(fake_logits.shape)}"
        )
    return real_logits - fake_logits


def _accuracy(real_logits: Tensor, fake_logits: Tensor, threshold: float = 0.0) -> tuple[Tensor, Tensor]:
    return (real_logits > threshold).float().mean(), (fake_logits < threshold).float().mean()


def _ranking(real_logits: Tensor, fake_logits: Tensor) -> tuple[Tensor, Tensor]:
    share = (_margins(real_logits, fake_logits) > 0).float().mean()
    return share, share.clone()
