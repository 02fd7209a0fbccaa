"""Statistics of many images, collected by batch, rank or worker, and merged into those of all images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from gan_dist.core import rng
from gan_dist.core.errors import DataError
from gan_dist.core.images import lay_on_white
from gan_dist.evaluation.extractors.features import Extractor, require_finite
from gan_dist.evaluation.images import BLOCK, GeneratedImages, RealImages
from gan_dist.evaluation.metrics.checks import check_batch
from gan_dist.evaluation.metrics.class_scores import DigitModes, InceptionScore
from gan_dist.evaluation.metrics.moments import Moments, PixelSpread
from gan_dist.evaluation.metrics.subsets import Subsets

MAX_STORED = 10_000
"""Images of a set whose features are stored, for the metrics that compare single images."""
CHUNK = 128
"""Images that go through the extractor at once."""
WITH_FEATURES = ("kid", "pr", "dc", "memorisation")

T = TypeVar("T")


def stored_features(metrics: tuple[str, ...], total: int) -> int:
    """Return the number of images, of `total`, whose features must be stored for these metrics."""
    return min(total, MAX_STORED) if set(metrics) & set(WITH_FEATURES) else 0


class Reservoir:
    """Stores the `dim` features of `size` of `count` images, the same ones for all batches, orders and ranks.

    The choice is a function of (count, size): the first `size` of a permutation of all numbers, in ascending
    order; all where there are not more. Memory is O(size * dim), and for the choice, which sorts `count`
    integers once, 24 bytes each.

    Raises:
        ValueError: `count` or `size` is below 1.
    """

    def __init__(self, count: int, size: int, dim: int, device: torch.device | None = None) -> None:
        if min(count, size) < 1:
            raise ValueError(f"cannot keep {size} of {count} rows: both must be 1 at least")
        self._count = count
        chosen = np.sort(rng.permutation(count, 0, "reservoir")[:size])
        self.indices = torch.from_numpy(chosen).to(device)
        """int64 (k,), ascending: numbers of the images to store, k = min(count, size)."""
        self._features = torch.zeros(len(chosen), dim, device=device)
        self._stored = torch.zeros_like(self.indices)  # how often each image was given

    def update(self, indices: Tensor, features: Tensor) -> None:
        """Store the chosen ones of the rows float32 (B, dim) with numbers int64 (B,). B may be 0.

        Raises ValueError for other shapes or a number out of range.
        """
        check_batch(indices, features, self._features.shape[1], self._count)
        indices = indices.to(self.indices)
        slots = torch.searchsorted(self.indices, indices).clamp_(max=len(self.indices) - 1)
        chosen = self.indices[slots] == indices
        slots = slots[chosen]
        self._features[slots] = features.detach().to(self._features)[chosen]
        self._stored.index_add_(0, slots, torch.ones_like(slots))

    def merge(self, other: Reservoir) -> None:
        """Add the features of `other`, in place. Raises ValueError if it has another choice of images."""
        if not torch.equal(self.indices, other.indices.to(self.indices.device)):
            raise ValueError("cannot merge reservoirs of different rows")
        self._features += other._features.to(self._features.device)
        self._stored += other._stored.to(self._stored.device)

    def all_reduce(self) -> None:
        """Add the features of all ranks, in place. Raises as `features` does."""
        if dist.is_initialized():
            dist.all_reduce(self._features)  # a row is zero on all ranks but one
            dist.all_reduce(self._stored)
        self._require_whole()

    @property
    def features(self) -> Tensor:
        """float32 (k, dim), in the order of `indices`. Raises DataError unless each image was given once."""
        self._require_whole()
        return self._features

    def _require_whole(self) -> None:
        wrong = (self._stored != 1).nonzero().flatten()
        if len(wrong):
            first = wrong[0]
            raise DataError(
                f"{len(wrong)} of {len(self.indices)} images to keep were not given once: number "
                f"{self.indices[first]} came {self._stored[first]} times",
                f"give each of the {self._count} images once, on one rank",
            )


@dataclass
class FeatureStatistics:
    """Statistics of images and of their features."""

    moments: Moments
    spread: PixelSpread
    labels: Tensor
    """int64 (classes,): number of images of each class; empty where they have none."""
    inception_score: InceptionScore | None
    reservoir: Reservoir | None
    modes: DigitModes | None
    subsets: Subsets | None = None

    @classmethod
    def empty(
        cls,
        extractor: Extractor,
        total: int,
        *,
        stored: int,
        image_values: int,
        classes: int = 0,
        inception_score: bool = False,
        modes: DigitModes | None = None,
        members: Tensor | None = None,
        device: torch.device,
    ) -> FeatureStatistics:
        """Return the statistics of no image.

        Args:
            extractor: The extractor of the features.
            total: Images of all batches, ranks and workers together.
            stored: Images among them whose features are stored.
            image_values: C * H * W.
            classes: Number of classes; 0 if labels are not to be counted.
            inception_score: Whether to compute the Inception Score.
            modes: Empty counts of modes, where modes are to be counted.
            members: bool (subsets, total), of subsets whose moments are to be had as well.
            device: Device of the statistics.
        """
        return cls(
            Moments.empty(extractor.dim, device),
            PixelSpread(image_values, device),
            torch.zeros(classes, dtype=torch.int64, device=device),
            InceptionScore(extractor.classes, total, device=device) if inception_score else None,
            Reservoir(total, stored, extractor.dim, device=device) if stored else None,
            modes,
            None if members is None else Subsets(members, extractor.dim, device),
        )

    def add(self, extractor: Extractor, first: int, images: Tensor, labels: Tensor | None, kind: str) -> None:
        """Add images uint8 (B, C, H, W) with numbers from `first` on, and their classes int64 (B,).

        Extractors see images with alpha as they look on white.

        `kind` is `generated` or `real`, for errors.

        Raises:
            DataError: the extractor cannot take such images.
            NonFiniteError: a feature is NaN or infinite; the images are named.
        """
        device = self.moments.mean.device
        for start in range(0, len(images), CHUNK):
            chunk = images[start : start + CHUNK].to(device)
            numbers = torch.arange(first + start, first + start + len(chunk), device=device)
            features, logits = extractor(lay_on_white(chunk))
            require_finite(features, f"{kind} images {numbers[0]} to {numbers[-1]}")
            self.moments.update(features)
            self.spread.update(chunk)
            if self.subsets is not None:
                self.subsets.update(numbers, features)
            if self.reservoir is not None:
                self.reservoir.update(numbers, features)
            if self.inception_score is not None and logits is not None:
                self.inception_score.update(numbers, logits)
            if self.modes is not None:
                self.modes.update(chunk)
        if labels is not None and len(self.labels):
            self.labels += torch.bincount(labels.to(device), minlength=len(self.labels))

    def add_blocks(
        self, extractor: Extractor, generated: GeneratedImages, blocks: Iterable[tuple[int, slice]]
    ) -> None:
        """Add the first images of some blocks, as from `block_slices`. Raises as `add` does."""
        for index, part in blocks:
            images = generated.block(index, self.moments.mean.device)[part]
            self.add(extractor, BLOCK * index, images, None, "generated")

    def add_row_groups(self, extractor: Extractor, real: RealImages, groups: range) -> None:
        """Add the images of some row groups of a set. Raises as `add` does."""
        for index in groups:
            first, batch = real.row_group(index)
            self.add(extractor, first, batch.images, batch.labels, "real")

    def merge(self, other: FeatureStatistics) -> None:
        """Add the images of `other`, in place."""
        self.labels += other.labels.to(self.labels.device)
        for part, others in zip(self._parts(), other._parts(), strict=True):
            part.merge(others)

    def all_reduce(self) -> None:
        """Add the images of all ranks, in place."""
        if dist.is_initialized():
            dist.all_reduce(self.labels)
            for part in self._parts():
                part.all_reduce()

    def _parts(self) -> list[Any]:
        parts = (
            *(self.moments, self.spread, self.inception_score),
            *(self.reservoir, self.modes, self.subsets),
        )
        return [part for part in parts if part is not None]


def to_cpu(part: T) -> T:
    """Move the tensors of an object and of its attributes to the CPU, in place, and return the object."""
    for name, value in vars(part).items():
        if isinstance(value, Tensor):
            setattr(part, name, value.cpu())
        elif isinstance(value, list):
            setattr(part, name, [to_cpu(one) for one in value])
        elif hasattr(value, "__dict__"):
            to_cpu(value)
    return part
