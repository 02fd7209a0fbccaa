"""What changes with the clock: learning rates, penalties, Adam's memory, augmentation, instance noise."""

from __future__ import annotations

import math

from gan_dist.config import LossConfig, OptimConfig, RateConfig, RunConfig


def remaining(optim: OptimConfig, images: int) -> float:
    """Return what is left of the schedule after `images` images: 1 at the start, 0 from `decay_kimg` on.

    `linear` is 1 - t and `cosine` (1 + cos(pi t)) / 2 (Loshchilov and Hutter 2017, equation 5, without
    restarts), t being the part of `optim.decay_kimg` that has passed, at most 1. `constant` stays at 1.
    """
    if optim.schedule == "constant" or optim.decay_kimg is None:
        return 1.0
    passed = min(1.0, images / (1000 * optim.decay_kimg))
    return 1.0 - passed if optim.schedule == "linear" else (1.0 + math.cos(math.pi * passed)) / 2


def rate_factor(optim: OptimConfig, images: int) -> float:
    """Return what learning rates are multiplied with: from 1 to `optim.end_factor`."""
    return _between(1.0, optim.end_factor, remaining(optim, images))


def penalty_factor(loss: LossConfig, optim: OptimConfig, images: int) -> float:
    """Return what penalties' weights are multiplied with: from 1 to `loss.penalty_end_factor`."""
    return _between(1.0, loss.penalty_end_factor, remaining(optim, images))


def betas(rate: RateConfig, optim: OptimConfig, images: int) -> tuple[float, float]:
    """Return Adam's two decays; the second goes from `beta2_start`, where there is one, to `beta2`.

    PyTorch's Adam, the fused one too, reads them anew at every update: its k-th averages squared gradients
    with the beta2 of that moment, and divides the average by 1 - beta2^k, as if it had never been another.
    R3GAN's code does the same.
    """
    if rate.beta2_start is None:
        return rate.beta1, rate.beta2
    return rate.beta1, _between(rate.beta2_start, rate.beta2, remaining(optim, images))


def augment_p(config: RunConfig, adapted: float, images: int) -> float:
    """Return the probability with which `ada` changes an image, in [0, 1].

    Args:
        config: The run. With `data.augment_p` the probability goes there from 0, and is there at once where
            the schedule is constant.
        adapted: The probability where the configuration leaves it to the controller.
        images: The clock.
    """
    end = config.data.augment_p
    if end is None:
        return adapted
    return end if config.optim.schedule == "constant" else _between(0.0, end, remaining(config.optim, images))


def instance_noise(loss: LossConfig, images: int) -> float:
    """Return the standard deviation of instance noise after `images` images (Sonderby et al. 2017).

    It falls linearly from `loss.instance_noise` to 0 at `loss.instance_noise_kimg`.
    """
    return loss.instance_noise * max(0.0, 1.0 - images / (1000 * loss.instance_noise_kimg))


def _between(start: float, end: float, left: float) -> float:
    """Return `start` while 1 is left and `end` once 0 is, both to the last bit."""
    return start * left + end * (1.0 - left)
