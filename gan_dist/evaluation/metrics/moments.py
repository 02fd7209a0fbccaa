"""Mean and covariance of features, gathered batch by batch and rank by rank.

Sums of x and of x x^T lose all digits of the variance once the mean is large beside it. Here everything is
centred: what is kept is the mean and M2 = sum of (x - mean)(x - mean)^T, and two such pairs are merged by
Chan, Golub and LeVeque 1983 (equations 2.1), all in float64.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor

from gan_dist.core.errors import DataError

_ROWS = 4096  # rows converted to float64 at once, whatever the size of a batch


@dataclass
class Moments:
    """Count, mean and centred second moment of the rows of a feature matrix.

    All methods stay on the device of `mean` and need memory for two (d, d) matrices besides this one at most,
    however many rows there are.
    """

    count: int
    """Number of rows seen."""
    mean: Tensor
    """float64 (d,); zeros where count is 0."""
    m2: Tensor
    """float64 (d, d): sum over rows of (x - mean)(x - mean)^T."""

    @classmethod
    def empty(cls, dim: int, device: torch.device | None = None) -> Moments:
        """The moments of no rows of `dim` features."""
        mean = torch.zeros(dim, dtype=torch.float64, device=device)
        return cls(0, mean, torch.zeros(dim, dim, dtype=torch.float64, device=device))

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """The moments of the rows of `features`, any floating type (N, d)."""
        moments = cls.empty(features.shape[1], features.device)
        moments.update(features)
        return moments

    def update(self, features: Tensor) -> None:
        """Add the rows of `features`, any floating type (B, d), in place. B may be 0.

        Raises ValueError if the shape is not (B, d).
        """
        if features.ndim != 2 or features.shape[1] != len(self.mean):
            raise ValueError(f"features are {tuple(features.shape)}, not (B, {len(self.mean)})")
        for rows in torch.split(features.detach(), _ROWS):
            if len(rows):
                centred = rows.to(self.mean.device, torch.float64, copy=True)
                mean = centred.mean(dim=0)
                centred -= mean
                self.m2.addmm_(centred.T, centred)
                self._shift(len(rows), mean)

    def merge(self, other: Moments) -> None:
        """Add the rows that `other` has seen, in place. Raises ValueError if the dimensions differ."""
        if other.mean.shape != self.mean.shape:
            raise ValueError(f"cannot merge moments of {len(other.mean)} features into {len(self.mean)}")
        if other.count:
            self.m2 += other.m2.to(self.m2.device)
            self._shift(other.count, other.mean.to(self.mean.device))

    def covariance(self) -> Tensor:
        """The unbiased covariance M2 / (count - 1), float64 (d, d). Raises DataError if count is below 2."""
        if self.count < 2:
            raise DataError(
                f"a covariance needs at least 2 images and there are {self.count}: give more images"
            )
        return self.m2 / (self.count - 1)

    def _shift(self, count: int, mean: Tensor) -> None:
        """Account for the distance between two means, once both groups' M2 have been added up."""
        total = self.count + count
        delta = mean - self.mean
        self.m2.addr_(delta, delta, alpha=self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total


def all_reduce(moments: Moments, device: torch.device | None = None) -> Moments:
    """The moments of the rows of all ranks together, equal on every rank; `moments` stays as it is.

    Collective over torch.distributed's default group, or `moments` itself where there is no group or only one
    rank. Two all-reduces: count and count * mean, which give the global mean; then the upper triangle of M2
    about that mean. Ranks without rows take part. `device` is where the communication takes place (NCCL
    reduces GPU tensors only); absent, the moments' own. The result is on the moments' own device.
    """
    if not (dist.is_available() and dist.is_initialized()) or dist.get_world_size() == 1:
        return moments
    home, device = moments.mean.device, device or moments.mean.device
    mean = moments.mean.to(device)
    sums = torch.cat([mean.new_tensor([moments.count]), moments.count * mean])
    dist.all_reduce(sums)
    total = round(sums[0].item())
    global_mean = sums[1:] / max(total, 1)

    delta = mean - global_mean
    m2 = moments.m2.to(device, copy=True).addr_(delta, delta, alpha=moments.count)
    upper = torch.ones_like(m2, dtype=torch.bool).triu_()
    triangle = m2.masked_select(upper)
    dist.all_reduce(triangle)
    m2.masked_scatter_(upper, triangle)
    del upper, triangle
    m2.triu_()
    m2 += m2.triu(1).T
    return Moments(total, global_mean.to(home), m2.to(home))
