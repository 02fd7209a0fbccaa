"""What is kept of images while they stream by, on any number of ranks or in any number of parts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from gan_dist.evaluation.extractors.features import Extractor, require_finite
from gan_dist.evaluation.metrics import moments as moment
from gan_dist.evaluation.metrics.inception_score import ClassScore
from gan_dist.evaluation.metrics.modes import Modes
from gan_dist.evaluation.metrics.moments import Moments
from gan_dist.evaluation.metrics.pixel_spread import PixelSpread
from gan_dist.evaluation.metrics.reservoir import Reservoir

KEEP = 10_000
"""Images whose features themselves are kept, for the metrics that need them."""
CHUNK = 128
"""Images that go through the extractor at once."""
WITH_FEATURES = ("kid", "pr", "dc", "memorisation")


def kept(metrics: tuple[str, ...], total: int) -> int:
    """Return the number of images, of `total`, whose features these metrics need."""
    return min(total, KEEP) if set(metrics) & set(WITH_FEATURES) else 0


@dataclass
class FeatureStatistics:
    """Sums over images, and the features of a chosen few; two are merged into that of all their images."""

    moments: Moments
    spread: PixelSpread
    labels: Tensor
    """int64 (classes,): how many images of each class were seen; empty where they have none."""
    class_score: ClassScore | None
    reservoir: Reservoir | None
    modes: Modes | None

    @classmethod
    def empty(
        cls,
        extractor: Extractor,
        total: int,
        *,
        keep: int,
        image_values: int,
        classes: int = 0,
        class_score: bool = False,
        modes: Modes | None = None,
        device: torch.device,
    ) -> FeatureStatistics:
        """Return the tally of no image.

        Args:
            extractor: What the features come from.
            total: Images that there will be in all parts together.
            keep: Images among them whose features are kept.
            image_values: C * H * W.
            classes: Classes to count labels of.
            class_score: Keep what the Inception Score needs.
            modes: An empty count of modes, where they are to be counted.
            device: Where to sum.
        """
        return cls(
            Moments.empty(extractor.dim, device),
            PixelSpread(image_values, device),
            torch.zeros(classes, dtype=torch.int64, device=device),
            ClassScore(extractor.classes, total, device=device) if class_score else None,
            Reservoir(total, keep, extractor.dim, device=device) if keep else None,
            modes,
        )

    def add(self, extractor: Extractor, first: int, images: Tensor, labels: Tensor | None, kind: str) -> None:
        """Add images uint8 (B, C, H, W) whose numbers follow `first`.

        Args:
            extractor: What the features come from.
            first: The first image's number.
            images: The images.
            labels: Their classes int64 (B,).
            kind: What they are, for errors: `generated` or `real`.

        Raises:
            DataError: the extractor cannot take such images.
            NonFiniteError: a feature is NaN or infinite; the images are named.
        """
        device = self.moments.mean.device
        for start in range(0, len(images), CHUNK):
            chunk = images[start : start + CHUNK].to(device)
            numbers = torch.arange(first + start, first + start + len(chunk), device=device)
            features, logits = extractor(chunk)
            require_finite(features, f"{kind} images {numbers[0]} to {numbers[-1]}")
            self.moments.update(features)
            self.spread.update(chunk)
            if self.reservoir is not None:
                self.reservoir.update(numbers, features)
            if self.class_score is not None and logits is not None:
                self.class_score.update(numbers, logits)
            if self.modes is not None:
                self.modes.update(chunk)
        if labels is not None and len(self.labels):
            self.labels += torch.bincount(labels.to(device), minlength=len(self.labels))

    def merge(self, other: FeatureStatistics) -> None:
        """Add the images that `other` has seen."""
        self.moments.merge(other.moments)
        self.spread.merge(other.spread)
        self.labels += other.labels.to(self.labels.device)
        if self.class_score is not None and other.class_score is not None:
            self.class_score.merge(other.class_score)
        if self.reservoir is not None and other.reservoir is not None:
            self.reservoir.merge(other.reservoir)
        if self.modes is not None and other.modes is not None:
            self.modes.merge(other.modes)

    def all_reduce(self) -> None:
        """Merge the tallies of all ranks, on every rank."""
        if not dist.is_initialized():
            return
        self.moments = moment.all_reduce(self.moments)
        dist.all_reduce(self.labels)
        for part in (self.spread, self.class_score, self.reservoir, self.modes):
            if part is not None:
                part.all_reduce()


T = TypeVar("T")


def to_cpu(part: T) -> T:
    """Move the tensors that an object and its parts hold to the CPU, in place; returns the object."""
    for name, value in vars(part).items():
        if isinstance(value, Tensor):
            setattr(part, name, value.cpu())
        elif hasattr(value, "__dict__"):
            to_cpu(value)
    return part
