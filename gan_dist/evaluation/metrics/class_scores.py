"""Scores from a classifier's answers, by sums over images: the Inception Score, and modes of digits."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gan_dist.core.errors import DataError
from gan_dist.evaluation.extractors.digits import Digits
from gan_dist.evaluation.metrics.checks import check_batch, check_finite
from gan_dist.evaluation.metrics.moments import Sums


class InceptionScore(Sums):
    """Inception Score (Salimans et al. 2016, section 4): exp(E_x KL(p(y | x), p(y))), for each split.

    1 is worst and the number of classes best. Split i holds the images with numbers
    i * total // splits .. (i + 1) * total // splits - 1, as torch-fidelity's without shuffling; p(y) is the
    mean over the split, and `total` counts the images of all batches and ranks together. KL is
    sum p log p - sum p log p(y), and so sums over images suffice: memory is O(splits * classes), all of it
    float64.

    Raises:
        DataError: there are fewer images than splits, so that one would be empty.
    """

    def __init__(
        self, classes: int, total: int, splits: int = 10, device: torch.device | None = None
    ) -> None:
        if total < splits:
            raise DataError(
                f"an Inception Score of {splits} splits needs at least {splits} images and there are {total}",
                "give more images",
            )
        self._edges = torch.arange(splits + 1, device=device) * total // splits
        # Of each split: number of images, sum of sum_c p log p, sum of p.
        super().__init__(torch.zeros(splits, 2 + classes, dtype=torch.float64, device=device))

    def update(self, indices: Tensor, logits: Tensor) -> None:
        """Add images by their numbers int64 (B,) and logits, any floating type (B, classes). B may be 0.

        Raises DataError if a logit is not finite, ValueError for other shapes or a number out of range.
        """
        check_batch(indices, logits, self.sums.shape[1] - 2, int(self._edges[-1]))
        check_finite(logits, "logits")
        log_p = logits.to(self.sums).log_softmax(1)
        p = log_p.exp()
        entropy = (p * log_p).sum(1, keepdim=True)
        split = torch.searchsorted(self._edges[1:], indices.to(self._edges), right=True)
        self.sums.index_add_(0, split, torch.cat([torch.ones_like(entropy), entropy, p], 1))

    @property
    def scores(self) -> Tensor:
        """Each split's score, float64 (splits,). Raises DataError if a split lacks some of its images."""
        counts = self.sums[:, 0]
        wrong = (counts != self._edges.diff()).nonzero().flatten().tolist()
        if wrong:
            split = wrong[0]
            first, end = self._edges[split : split + 2].tolist()
            raise DataError(
                f"split {split} of the Inception Score was given {counts[split]:.0f} of its {end - first} "
                f"images, numbers {first} to {end - 1}",
                "give each image once",
            )
        means = self.sums[:, 1:] / counts[:, None]
        scores: Tensor = (means[:, 0] + torch.special.entr(means[:, 1:]).sum(1)).exp()
        return scores


class DigitModes(Sums):
    """Counts of images by mode: the StackedMNIST protocol (Metz et al. 2017, section 3.3.1).

    Every channel of an image is a digit, so that c channels make 10^c modes; a classifier recognises them.
    `sums` holds the number of images of each mode, int64 (10^c,).
    """

    def __init__(self, classifier: Digits, channels: int, device: torch.device) -> None:
        self._classifier = classifier
        super().__init__(torch.zeros(classifier.classes**channels, dtype=torch.int64, device=device))

    def update(self, images: Tensor) -> None:
        """Add images uint8 (B, channels, H, W)."""
        batch, channels, height, width = images.shape
        digits = self._classifier.classify(images.reshape(batch * channels, 1, height, width)).argmax(1)
        place = self._classifier.classes ** torch.arange(channels - 1, -1, -1, device=digits.device)
        modes = (digits.view(batch, channels) * place).sum(1)
        self.sums += torch.bincount(modes, minlength=len(self.sums))

    @property
    def hit(self) -> int:
        """Number of modes with at least one image."""
        return int((self.sums > 0).sum())

    @property
    def kl(self) -> float:
        """The divergence KL(p, uniform) of the modes' shares p, in nats; 0 is ideal.

        A perfect sampler's expected value is not 0 but about (modes - 1) / (2 images).
        """
        shares = self.sums.double() / self.sums.sum()
        seen = shares[shares > 0]
        return float((seen * seen.log()).sum() + math.log(len(self.sums)))
