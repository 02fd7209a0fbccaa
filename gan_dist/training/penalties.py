"""Penalties on gradients of the discriminator with respect to its images, each as its paper writes it.

They are without their weights, and differentiable with respect to the discriminator's parameters. Mixed
precision is switched off: gradients rounded to 8 bits are too inexact to be squared, and in float16 their
squares overflow. The gradient of the sum of the logits is that of each image (or pack) if the logits do not
depend on other images, so without batch normalisation. Under a minibatch standard deviation they do, within a
group: an image's gradient is then that of its group's summed logits, and so is the penalty in the published
StyleGAN2, which differentiates the sum of all logits.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import torch
from torch import Tensor

Critic: TypeAlias = Callable[[Tensor], Tensor]
"""Images float32 (B, C, H, W) to logits (B,), or (B / m,) where m consecutive images share a logit."""


def gradient_penalty(
    critic: Critic, reals: Tensor, fakes: Tensor, mix: Tensor, *, one_sided: bool, pack: int = 1
) -> Tensor:
    """E[(|grad D(x^)| - 1)^2], x^ = mix x + (1 - mix) G(z): Gulrajani et al. 2017.

    One-sided, E[max(0, |grad D(x^)| - 1)^2]: Petzka et al. 2018. Where the gradient is zero the
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
    """|grad D(x)|^2: Mescheder et al. 2018, R1 at reals and R2 at fakes, no gamma/2, no mean.

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
