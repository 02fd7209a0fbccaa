"""Schedules of the images seen: rates, penalties, Adam's decays, augmentation, noise, the average."""

from __future__ import annotations

import math

from gan_dist.config import DataConfig, EmaConfig, LossConfig, OptimConfig, RateConfig


def remaining(optim: OptimConfig, images: int) -> float:
    """Return the remaining part of the schedule: 1 at the start, 0 from `decay_kimg` on.

    `linear` is 1 - t and `cosine` (1 + cos(pi t)) / 2 (Loshchilov and Hutter 2017, without
    restarts), t being the part of `optim.decay_kimg` that has passed, at most 1. `constant` stays at 1.
    """
    if optim.schedule == "constant" or optim.decay_kimg is None:
        return 1.0
    passed = min(1.0, images / (1000 * optim.decay_kimg))
    return 1.0 - passed if optim.schedule == "linear" else (1.0 + math.cos(math.pi * passed)) / 2


def rate_factor(optim: OptimConfig, images: int) -> float:
    """Return the factor of the learning rates: from 1 to `optim.end_factor`."""
    return _between(1.0, optim.end_factor, remaining(optim, images))


def penalty_factor(loss: LossConfig, optim: OptimConfig, images: int) -> float:
    """Return the factor of the penalties' weights: from 1 to `loss.penalty_end_factor`."""
    return _between(1.0, loss.penalty_end_factor, remaining(optim, images))


def betas(rate: RateConfig, optim: OptimConfig, images: int) -> tuple[float, float]:
    """Return Adam's two decays; the second goes from `beta2_start`, if it is set, to `beta2`.

    PyTorch's Adam, the fused one too, reads them at every update: update k averages squared gradients with
    the present beta2, and divides the average by 1 - beta2^k, as if beta2 had never changed. R3GAN's code
    does the same.
    """
    if rate.beta2_start is None:
        return rate.beta1, rate.beta2
    return rate.beta1, _between(rate.beta2_start, rate.beta2, remaining(optim, images))


def augment_p(data: DataConfig, optim: OptimConfig, adapted: float, images: int) -> float:
    """Return ADA's probability of each transform, in [0, 1].

    With `data.augment_p` it goes from 0 to that value, or is that value from the start if the schedule is
    constant. Otherwise it is `adapted`, which the controller sets.
    """
    end = data.augment_p
    if end is None:
        return adapted
    return end if optim.schedule == "constant" else _between(0.0, end, remaining(optim, images))


def instance_noise(loss: LossConfig, images: int) -> float:
    """Return the standard deviation of instance noise after `images` images (Sonderby et al. 2017).

    It falls linearly from `loss.instance_noise` to 0 at `loss.instance_noise_kimg`.
    """
    return loss.instance_noise * max(0.0, 1.0 - images / (1000 * loss.instance_noise_kimg))


def top_k_share(loss: LossConfig, images: int) -> float:
    """Return the share of the fakes from which the generator learns, in (0, 1]: Sinha et al. 2020.

    It is 1 at the start, is multiplied by `loss.top_k_decay` every `loss.top_k_every_kimg`, for the paper's
    epochs, and stays at `loss.top_k`.
    """
    if loss.top_k == 1:
        return 1.0
    times = images // max(1, round(1000 * loss.top_k_every_kimg))
    return max(loss.top_k, loss.top_k_decay**times)


def half_life(ema: EmaConfig, optim: OptimConfig, images: int) -> float:
    """Return the half-life of the averaged generator, in images, after `images` images.

    It is min(1000 half_life_kimg, ramp_up * images): Karras et al. 2020 (StyleGAN2), with the ramp of Karras
    et al. 2022 (EDM). With `half_life_start_kimg` it goes from there to `half_life_kimg` by `optim.schedule`:
    Huang et al. 2024 (R3GAN), from 0, in the authors' code.
    """
    if ema.half_life_start_kimg is None:
        return min(1000.0 * ema.half_life_kimg, ema.ramp_up * images)
    return 1000.0 * _between(ema.half_life_start_kimg, ema.half_life_kimg, remaining(optim, images))


def ema_decay(batch: int, half_life: float) -> float:
    """Return the weight in [0, 1) of the old average in the update after a batch: 0.5^(batch / half-life).

    `batch` is the number of images over all workers, `half_life` that before this batch; at 0 the average
    becomes the model.
    """
    return float(0.5 ** (batch / half_life)) if half_life > 0 else 0.0


def _between(start: float, end: float, left: float) -> float:
    """Return `start` at left = 1 and `end` at left = 0, both to the last bit."""
    return start * left + end * (1.0 - left)
