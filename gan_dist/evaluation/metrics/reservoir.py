"""Features of a fixed choice of images, for scores that need more than sums over all of them."""

from __future__ import annotations

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from gan_dist.core import rng
from gan_dist.core.errors import DataError
from gan_dist.evaluation.metrics.checks import check_batch


class Reservoir:
    """Keeps the features of `size` of `count` rows, the same ones however rows come in batches and on ranks.

    Which ones is a function of (count, size, seed, name): the first `size` of a permutation of all, in
    ascending order. Memory is O(size * dim), and for the choice, which sorts `count` integers once, 24 bytes
    each.

    Args:
        count: Rows that there will be, on all ranks together.
        size: Rows to keep; all where there are not more.
        dim: Number of features.
        seed: Another seed, another choice.
        name: Of the stream of random numbers.
        device: Where to keep them.

    Raises:
        ValueError: `count` or `size` is below 1.
    """

    def __init__(
        self,
        count: int,
        size: int,
        dim: int,
        seed: int = 0,
        name: str = "reservoir",
        device: torch.device | None = None,
    ) -> None:
        if min(count, size) < 1:
            raise ValueError(f"cannot keep {size} of {count} rows: both must be 1 at least")
        self._count = count
        chosen = np.sort(rng.permutation(count, seed, name)[:size])
        self.indices = torch.from_numpy(chosen).to(device)
        """int64 (k,), ascending: the numbers of the rows that are kept, k = min(count, size)."""
        self._features = torch.zeros(len(chosen), dim, device=device)
        self._stored = torch.zeros_like(self.indices)  # how often each was given

    def update(self, indices: Tensor, features: Tensor) -> None:
        """Keep those chosen of the rows float32 (B, dim) with numbers int64 (B,). B may be 0.

        Raises ValueError for other shapes or a number that is none.
        """
        check_batch(indices, features, self._features.shape[1], self._count)
        indices = indices.to(self.indices)
        slots = torch.searchsorted(self.indices, indices).clamp_(max=len(self.indices) - 1)
        chosen = self.indices[slots] == indices
        slots = slots[chosen]
        self._features[slots] = features.detach().to(self._features)[chosen]
        self._stored.index_add_(0, slots, torch.ones_like(slots))

    def merge(self, other: Reservoir) -> None:
        """Add the rows that `other` has kept, in place. Raises ValueError if it keeps other rows."""
        if not torch.equal(self.indices, other.indices.to(self.indices.device)):
            raise ValueError("cannot merge reservoirs of different rows")
        self._features += other._features.to(self._features.device)
        self._stored += other._stored.to(self._stored.device)

    def all_reduce(self) -> None:
        """Gather the rows of all ranks, on every rank. Raises as `features` does."""
        if dist.is_initialized():
            dist.all_reduce(self._features)  # a row is zero on all ranks but one
            dist.all_reduce(self._stored)
        self._require_whole()

    @property
    def features(self) -> Tensor:
        """float32 (k, dim), in the order of `indices`. Raises DataError unless each row was given once."""
        self._require_whole()
        return self._features

    def _require_whole(self) -> None:
        wrong = (self._stored != 1).nonzero().flatten()
        if len(wrong):
            first = wrong[0]
            raise DataError(
                f"{len(wrong)} of {len(self.indices)} images to keep were not given once",
                f"number "
                f"{self.indices[first]} came {self._stored[first]} times: give each of the {self._count} "
                "images once, on one rank",
            )
