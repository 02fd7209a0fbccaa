"""LeCam regularisation: logits stay near the moving averages of the other kind's (Tseng et al. 2021)."""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import Tensor

from gan_dist.core.distributed import Process
from gan_dist.training.state import LogitAverages


def lecam(real_logits: Tensor, fake_logits: Tensor, averages: LogitAverages) -> Tensor:
    """E[(D(x) - a_F)^2] + E[(D(G(z)) - a_R)^2]: Tseng et al. 2021, the regularisation R_LC of section 3.

    a_R and a_F are the moving averages of the logits of reals and of fakes, and constants here.

    Args:
        real_logits: Float (B,).
        fake_logits: Float (B,).
        averages: Those after the update before.
    """
    reals = (real_logits - averages.fake).square().mean()
    return reals + (fake_logits - averages.real).square().mean()


class LogitMeans:
    """Means of the logits of an update of the discriminator over all its images, on every rank."""

    def __init__(self) -> None:
        self._sums: list[Tensor] = []

    def add(self, real_logits: Tensor, fake_logits: Tensor) -> None:
        """Add the logits of a micro-batch of this rank; all are of the same size."""
        means = [logits.detach().double().mean() for logits in (real_logits, fake_logits)]
        self._sums.append(torch.stack(means))

    def over_ranks(self, process: Process) -> tuple[float, float]:
        """Return the means of the real and of the fake logits that were added, and begin anew."""
        means = torch.stack(self._sums).mean(0)
        self._sums.clear()
        if process.world_size > 1:
            dist.all_reduce(means)
            means /= process.world_size
        real, fake = means.tolist()
        return real, fake
