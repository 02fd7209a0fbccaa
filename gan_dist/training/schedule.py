"""What changes with the clock: learning rates and instance noise."""

from __future__ import annotations

import math

from gan_dist.config import LossConfig, OptimConfig


def rate_factor(optim: OptimConfig, images: int) -> float:
    """Return what learning rates are multiplied with after `images` images, in [0, 1].

    `linear` is 1 - t and `cosine` (1 + cos(pi t)) / 2 (Loshchilov and Hutter 2017, equation 5, without
    restarts), t being the part of `optim.decay_kimg` that has passed, at most 1.
    """
    if optim.schedule == "constant":
        return 1.0
    assert optim.decay_kimg is not None
    passed = min(1.0, images / (1000 * optim.decay_kimg))
    return 1.0 - passed if optim.schedule == "linear" else (1.0 + math.cos(math.pi * passed)) / 2


def instance_noise(loss: LossConfig, images: int) -> float:
    """Return the standard deviation of instance noise after `images` images (Sonderby et al. 2017).

    It falls linearly from `loss.instance_noise` to 0 at `loss.instance_noise_kimg`.
    """
    return loss.instance_noise * max(0.0, 1.0 - images / (1000 * loss.instance_noise_kimg))
