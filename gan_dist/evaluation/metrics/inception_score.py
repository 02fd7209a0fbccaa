"""Inception Score from sums over images, so that it can be gathered batch by batch and rank by rank."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from gan_dist.core.errors import DataError
from gan_dist.evaluation.metrics.checks import check_batch, check_finite


class ClassScore:
    """Inception Score (Salimans et al. 2016, section 4): exp(E_x KL(p(y | x), p(y))), for each split.

    1 is worst and the number of classes best. Split i holds the images of numbers
    i * total // splits .. (i + 1) * total // splits - 1, as torch-fidelity's without shuffling; p(y) is the
    mean over the split. KL is sum p log p - sum p log p(y), and so sums over images suffice: memory is
    O(splits * classes), all of it float64.

    Args:
        classes: Number of logits.
        total: Images that there will be, on all ranks together.
        splits: Number of splits.
        device: Where to sum.

    Raises:
        DataError: there are fewer images than splits, so that one would be empty.
    """

    def __init__(
        self, classes: int, total: int, splits: int = 10, device: torch.device | None = None
    ) -> None:
        if total < splits:
            raise DataError(
                f"an Inception Score of {splits} splits needs at least {splits} images and there are "
                f"{total}: give more images"
            )
        self._edges = torch.arange(splits + 1, device=device) * total // splits
        # Of each split: the number of images seen, sum of sum_c p log p, sum of p.
        self._sums = torch.zeros(splits, 2 + classes, dtype=torch.float64, device=device)

    def update(self, indices: Tensor, logits: Tensor) -> None:
        """Add images by their numbers int64 (B,) and logits, any floating type (B, classes). B may be 0.

        Raises DataError if a logit is not finite, ValueError for other shapes or a number that is none.
        """
        check_batch(indices, logits, self._sums.shape[1] - 2, int(self._edges[-1]))
        check_finite(logits, "logits")
        log_p = logits.to(self._sums).log_softmax(1)
        p = log_p.exp()
        entropy = (p * log_p).sum(1, keepdim=True)
        split = torch.searchsorted(self._edges[1:], indices.to(self._edges), right=True)
        self._sums.index_add_(0, split, torch.cat([torch.ones_like(entropy), entropy, p], 1))

    def merge(self, other: ClassScore) -> None:
        """Add the images that `other` has seen, in place."""
        self._sums += other._sums.to(self._sums.device)

    def all_reduce(self) -> None:
        """Add up the images of all ranks, on every rank."""
        if dist.is_initialized():
            dist.all_reduce(self._sums)

    @property
    def scores(self) -> Tensor:
        """Each split's score, float64 (splits,). Raises DataError if one has not seen all of its images."""
        counts = self._sums[:, 0]
        wrong = (counts != self._edges.diff()).nonzero().flatten().tolist()
        if wrong:
            split = wrong[0]
            first, end = self._edges[split : split + 2].tolist()
            raise DataError(
                f"split {split} of the Inception Score was given {counts[split]:.0f} of its {end - first} "
                f"images, numbers {first} to {end - 1}: give each image once"
            )
        means = self._sums[:, 1:] / counts[:, None]
        scores: Tensor = (means[:, 0] + torch.special.entr(means[:, 1:]).sum(1)).exp()
        return scores

    @property
    def mean(self) -> float:
        """Mean over the splits. Raises as `scores` does."""
        return self.scores.mean().item()

    @property
    def std(self) -> float:
        """Population standard deviation over the splits. Raises as `scores` does."""
        return self.scores.std(correction=0).item()
