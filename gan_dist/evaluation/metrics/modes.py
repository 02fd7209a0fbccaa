"""Modes of digits that a generator covers: the StackedMNIST protocol (Metz et al. 2017, section 3.3.1).

Every channel of an image is a digit, so that c channels make 10^c modes; a classifier says which one an image
shows.
"""

from __future__ import annotations

import math

import torch
import torch.distributed as dist
from torch import Tensor

from gan_dist.evaluation.extractors.digits import Digits

DIGITS = 10


class Modes:
    """Counts of images by mode.

    Args:
        classifier: What recognises a digit.
        channels: Digits in an image, 1 or more.
        device: Where to count.
    """

    def __init__(self, classifier: Digits, channels: int, device: torch.device) -> None:
        self._classifier = classifier
        self.counts = torch.zeros(DIGITS**channels, dtype=torch.int64, device=device)

    def update(self, images: Tensor) -> None:
        """Count images uint8 (B, channels, H, W)."""
        batch, channels, height, width = images.shape
        digits = self._classifier.classify(images.reshape(batch * channels, 1, height, width)).argmax(1)
        place = DIGITS ** torch.arange(channels - 1, -1, -1, device=digits.device)
        modes = (digits.view(batch, channels) * place).sum(1)
        self.counts += torch.bincount(modes, minlength=len(self.counts))

    def merge(self, other: Modes) -> None:
        """Add the images that `other` has counted."""
        self.counts += other.counts.to(self.counts.device)

    def all_reduce(self) -> None:
        """Add up the counts of all ranks, on every rank."""
        if dist.is_initialized():
            dist.all_reduce(self.counts)

    @property
    def hit(self) -> int:
        """How many modes have an image."""
        return int((self.counts > 0).sum())

    @property
    def kl(self) -> float:
        """The divergence KL(p, uniform) of the modes' shares p, in nats; 0 is ideal.

        A perfect sampler's expected value is not 0 but about (modes - 1) / (2 images).
        """
        shares = self.counts.double() / self.counts.sum()
        seen = shares[shares > 0]
        return float((seen * seen.log()).sum() + math.log(len(self.counts)))
