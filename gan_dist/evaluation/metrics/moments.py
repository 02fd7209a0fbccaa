"""Sums over images, added up over batches and ranks: mean and covariance of features, spread of pixels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import torch
import torch.distributed as dist
from torch import Tensor

from gan_dist.core.errors import DataError
from gan_dist.evaluation.metrics.checks import check_finite

_ROWS = 4096  # rows converted to float64 at once, whatever the size of a batch


@dataclass
class Moments:
    """Count, mean and centred second moment of the rows of a feature matrix.

    Sums of x and of x x^T lose all digits of the variance once the mean is large beside it. So these moments
    are centred, M2 = sum of (x - mean)(x - mean)^T, and two of them are merged by Chan, Golub and LeVeque
    1983, all in float64.

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
        """Return the moments of no rows of `dim` features."""
        mean = torch.zeros(dim, dtype=torch.float64, device=device)
        return cls(0, mean, torch.zeros(dim, dim, dtype=torch.float64, device=device))

    @classmethod
    def of(cls, features: Tensor) -> Moments:
        """Return the moments of the rows of `features`, any floating type (N, d)."""
        moments = cls.empty(features.shape[1], features.device)
        moments.update(features)
        return moments

    @classmethod
    def mixed(cls, parts: Sequence[Moments], weights: Sequence[float]) -> Moments:
        """Return the moments of a mixture: of rows of which each part has a share.

        mean = sum w_i mean_i, covariance = sum w_i (C_i + (mean_i - mean)(mean_i - mean)^T). The count is
        that of all rows, so that with weights in proportion to the counts it is what `merge` returns.

        Args:
            parts: Moments of one row or more each, of equally many features.
            weights: Share of each part; they add up to 1.
        """
        count = sum(part.count for part in parts)
        mixed = cls.empty(len(parts[0].mean), parts[0].mean.device)
        for part, weight in zip(parts, weights, strict=True):
            mixed.mean += weight * part.mean
        for part, weight in zip(parts, weights, strict=True):
            delta = part.mean - mixed.mean
            mixed.m2 += count * weight * (part.m2 / part.count + torch.outer(delta, delta))
        mixed.count = count
        return mixed

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
        """Add the rows of `other`, in place. Raises ValueError if the dimensions differ."""
        if other.mean.shape != self.mean.shape:
            raise ValueError(f"cannot merge moments of {len(other.mean)} features into {len(self.mean)}")
        if other.count:
            self.m2 += other.m2.to(self.m2.device)
            self._shift(other.count, other.mean.to(self.mean.device))

    def without(self, other: Moments) -> Moments:
        """Return the moments of the rows that are not in `other`, whose rows are some of these."""
        count = self.count - other.count
        mean = (self.count * self.mean - other.count * other.mean) / count
        delta = other.mean - mean
        m2 = self.m2 - other.m2
        return Moments(count, mean, m2.addr_(delta, delta, alpha=-count * other.count / self.count))

    def all_reduce(self) -> None:
        """Add the rows of all ranks, in place; every rank then has the same bits.

        Collective over torch.distributed's default group, if there is one; ranks without rows take part. Two
        all-reduces: count and count * mean, which give the global mean; then the upper triangle of M2 about
        that mean.
        """
        if not dist.is_initialized() or dist.get_world_size() == 1:
            return
        sums = torch.cat([self.mean.new_tensor([self.count]), self.count * self.mean])
        dist.all_reduce(sums)
        total = round(sums[0].item())
        global_mean = sums[1:] / max(total, 1)

        delta = self.mean - global_mean
        self.m2.addr_(delta, delta, alpha=self.count)
        upper = torch.ones_like(self.m2, dtype=torch.bool).triu_()
        triangle = self.m2.masked_select(upper)
        dist.all_reduce(triangle)
        self.m2.masked_scatter_(upper, triangle)
        del upper, triangle
        self.m2.triu_()
        self.m2 += self.m2.triu(1).T
        self.count, self.mean = total, global_mean

    def require_usable(self) -> None:
        """Raise DataError for fewer than 2 rows or a value that is not finite."""
        if self.count < 2:
            raise DataError(
                f"a covariance needs at least 2 images and there are {self.count}", "give more images"
            )
        check_finite(self.mean.sum() + self.m2.sum(), count=self.count)  # NaN and infinity stay in a sum

    def covariance(self) -> Tensor:
        """Return the covariance M2 / (count - 1), float64 (d, d). Raises as `require_usable` does."""
        self.require_usable()
        return self.m2 / (self.count - 1)

    def _shift(self, count: int, mean: Tensor) -> None:
        """Account for the distance between two means, once both groups' M2 have been added up."""
        total = self.count + count
        delta = mean - self.mean
        self.m2.addr_(delta, delta, alpha=self.count * count / total)
        self.mean += delta * (count / total)
        self.count = total


class Sums:
    """A tensor of sums over images, added up over batches and ranks; it begins with those over no image."""

    def __init__(self, sums: Tensor) -> None:
        self.sums = sums

    def merge(self, other: Self) -> None:
        """Add the images of `other`, in place."""
        self.sums += other.sums.to(self.sums.device)

    def all_reduce(self) -> None:
        """Add the images of all ranks, in place."""
        if dist.is_initialized():
            dist.all_reduce(self.sums)


class PixelSpread(Sums):
    """The root mean squared distance between two images of a set: near 0 where a generator has collapsed.

    E|x - y|^2 = 2 (E|x|^2 - |E x|^2) for independent x and y of the same set. The sums are whole numbers
    below 2^53, and so exact in any order and on any number of ranks. `pixels` is C * H * W.
    """

    def __init__(self, pixels: int, device: torch.device) -> None:
        # Number of images, sum of their squares, sums of each pixel.
        super().__init__(torch.zeros(2 + pixels, dtype=torch.float64, device=device))

    def update(self, images: Tensor) -> None:
        """Add images uint8 (B, C, H, W)."""
        values = images.flatten(1).double()
        self.sums[0] += len(values)
        self.sums[1] += values.square().sum()
        self.sums[2:] += values.sum(0)

    @property
    def distance(self) -> float:
        """The root mean squared distance, in grey levels; NaN where there is no image."""
        square, mean = self.sums[1] / self.sums[0], self.sums[2:] / self.sums[0]
        return float((2 * (square - mean.square().sum())).clamp(min=0).sqrt())
