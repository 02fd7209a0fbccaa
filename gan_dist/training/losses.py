"""Adversarial objectives and penalties on gradients, each as its paper writes it; all are minimised.

Where a paper's D is a probability it is sigmoid(logit) here, so log D(x) = logsigmoid(logit) and
log(1 - D(x)) = logsigmoid(-logit): finite for every finite logit, and free of the cancellation in
1 - sigmoid. Elsewhere D is the logit itself. A mean over one worker's batch becomes the mean over the global
batch when DDP averages the gradients; this holds for all of them, the paired ones included.

Penalties are on the discriminator's gradient with respect to its images, without their weights, and
differentiable with respect to its parameters. Mixed precision is switched off: gradients rounded to 8 bits
are too inexact to be squared, and in float16 their squares overflow. The gradient of the sum of the logits is
that of each image (or pack) if the logits do not depend on other images, so without batch normalisation.
Under a minibatch standard deviation they do, within a group: an image's gradient is then that of its group's
summed logits, and so is the penalty in the published StyleGAN2, which differentiates the sum of all logits.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid, relu

from gan_dist.config import LossConfig

Critic: TypeAlias = Callable[[Tensor], Tensor]
"""Images float32 (B, C, H, W) to logits (B,), or (B / m,) where m consecutive images share a logit."""


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


def gradient_penalty(
    critic: Critic, reals: Tensor, fakes: Tensor, mix: Tensor, *, one_sided: bool, pack: int = 1
) -> Tensor:
    """E[(|grad D(x^)| - 1)^2], x^ = mix x + (1 - mix) G(z): Gulrajani et al. 2017, equation 3.

    One-sided, E[max(0, |grad D(x^)| - 1)^2]: Petzka et al. 2018, equation 8. Where the gradient is zero the
    norm's derivative is taken to be zero.

    Args:
        critic: The discriminator.
        reals: float32 (B, C, H, W).
        fakes: As many; neither they nor the reals receive a gradient.
        mix: float32 (B,), uniform in [0, 1).
        one_sided: Whether only norms above 1 are penalised.
        pack: Images that share a logit. A point is then a pack: the norm is over all its images, and the mix
            of its first image applies to the whole pack, so that it lies on the straight line between a pack
            of reals and one of fakes.
    """
    with torch.no_grad():
        points = torch.lerp(fakes, reals, _spread(mix, reals, pack))
    return _from_unit_norm(critic, points, one_sided=one_sided, pack=pack)


def dragan(
    critic: Critic,
    reals: Tensor,
    noise: Tensor,
    mix: Tensor,
    std: Tensor,
    *,
    one_sided: bool = False,
    pack: int = 1,
) -> Tensor:
    """E[(|grad D(x + mix std/2 noise)| - 1)^2]: Kodali et al. 2017, perturbed as in the authors' code.

    Their paper writes N(0, cI) for the perturbation, their code adds uniform numbers that are not negative.

    Args are those of `gradient_penalty`, and:
        noise: float32 (B, C, H, W), uniform in [0, 1).
        std: float32 scalar, the standard deviation of all numbers of the batch together (of the population,
            as NumPy has it). It is the global batch's, so that any number of workers computes the same.
    """
    with torch.no_grad():
        points = reals + _spread(mix, reals, pack) * (0.5 * std) * noise
    return _from_unit_norm(critic, points, one_sided=one_sided, pack=pack)


def gradient_norms_sq(logits: Tensor, images: Tensor) -> Tensor:
    """|grad D(x)|^2: Mescheder et al. 2018, equation 9 at reals (R1), 10 at fakes (R2), no gamma/2, no mean.

    The caller makes the forward pass and shares it with the loss.

    Args:
        logits: float32 (B,), or (B / m,) if m images share a logit; of `images`.
        images: float32 (B, C, H, W) that require a gradient.

    Returns:
        float32 (B,): the squared norm over C, H and W at each image. If m images share a logit, their mean is
        1/m of the mean over packs.
    """
    return _gradients(logits, images).square().flatten(1).sum(1)


def penalties_due(images: int, batch: int, every: int) -> bool:
    """Return whether the update after `images` images has the penalties, with `every` times their weight.

    So their mean over any `every` consecutive updates, of `batch` images each, is that of penalties in each
    update: lazy regularisation, Karras et al. 2020 (StyleGAN2), section 3.1.
    """
    return images // batch % every == 0


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


def _from_unit_norm(critic: Critic, points: Tensor, *, one_sided: bool, pack: int) -> Tensor:
    points.requires_grad_()
    with _full_precision(points):
        logits = critic(points)
    gradients = _gradients(logits, points)
    # Not the root of a sum of squares: at zero its derivative is infinite, this one's is zero.
    norms: Tensor = torch.linalg.vector_norm(gradients.reshape(-1, pack * points[0].numel()), dim=1)
    excess = norms - 1
    if one_sided:
        excess = excess.relu()
    return excess.square().mean()


def _gradients(logits: Tensor, images: Tensor) -> Tensor:
    with _full_precision(images):
        gradients: Tensor = torch.autograd.grad(logits.sum(), images, create_graph=True)[0]
    return gradients


def _spread(mix: Tensor, images: Tensor, pack: int) -> Tensor:
    return mix[::pack].repeat_interleave(pack).view(-1, *[1] * (images.ndim - 1))


def _full_precision(images: Tensor) -> torch.autocast:
    return torch.autocast(images.device.type, enabled=False)
