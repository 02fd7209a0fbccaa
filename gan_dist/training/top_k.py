"""The generator learns from the fakes that the discriminator takes for the most real (Sinha et al. 2020)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from gan_dist.core.distributed import Process


@dataclass(frozen=True)
class TopK:
    """Which of a rank's fakes are among the k best of the global batch."""

    chosen: Tensor
    """bool (n,), of this rank's logits."""
    scale: float
    """Logits of the global batch, over k."""

    def portion(self, index: int, count: int) -> TopK:
        """Return the choice within one of `count` equal portions of this rank's fakes."""
        return TopK(self.chosen.chunk(count)[index], self.scale)

    def loss(self, generator: Callable[[Tensor, Tensor | None], Tensor], logits: Tensor) -> Tensor:
        """Return the part of the loss that these logits (n,) have, from a mean over logits.

        The mean of these parts over the portions of all ranks is the mean over the k best.
        """
        best = logits[self.chosen]
        if not len(best):
            return 0 * logits.sum()  # every rank takes part in the all-reduce of gradients
        return generator(best, None) * (self.scale * len(best) / len(logits))


def choose(logits: Tensor, share: float, process: Process) -> TopK:
    """Return the choice of the fakes with the largest logits, `share` of the global batch and at least one.

    Of equal logits those come first that are first in the global batch, whatever the number of workers.

    Args:
        logits: Float (n,), those of this rank's part of the batch; as many on every rank.
        share: In (0, 1]; k is rounded up.
        process: This rank.
    """
    logits = logits.detach().float().contiguous()
    everywhere = [logits]
    if process.world_size > 1:
        everywhere = [torch.empty_like(logits) for _ in range(process.world_size)]
        dist.all_gather(everywhere, logits)
    together = torch.cat(everywhere)
    # Less a rounding of the product.
    k = max(1, math.ceil(share * len(together) - 1e-6))
    best = together.sort(descending=True, stable=True).indices[:k]
    chosen = torch.zeros(len(together), dtype=torch.bool, device=logits.device)
    chosen[best] = True
    return TopK(chosen.chunk(process.world_size)[process.rank], len(together) / k)
