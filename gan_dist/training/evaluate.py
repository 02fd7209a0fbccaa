"""The averaged generator measured by all ranks together."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn

from gan_dist import randomness
from gan_dist.config import RunConfig
from gan_dist.data.loader import Batch, image_resolution, to_batch
from gan_dist.data.manifest import ImageSet, Manifest
from gan_dist.metrics.features import Digits, load_extractor
from gan_dist.metrics.modes import Modes
from gan_dist.metrics.moments import Moments, all_reduce
from gan_dist.metrics.scores import frechet_distance
from gan_dist.release import to_uint8
from gan_dist.training.context import Context

CHUNK = 256


def metric_name(config: RunConfig) -> str:
    """Return the key under which the distance is recorded."""
    return f"fd_{config.eval.extractor}"


@dataclass(frozen=True)
class Measurement:
    """What an evaluation found."""

    distance: float
    """The Frechet distance."""
    indicators: dict[str, float]
    """Signs of collapse: `diversity`, the root mean squared distance between two generated images over that
    between two real ones (1 is right, 0 is one image), and for digits `modes`, how many of them were made."""


class Evaluator:
    """Measures a generator's images against the whole image set.

    Args:
        config: The run.
        images: Its set, whose statistics are computed now, by all ranks together.
        context: The process that this is.
    """

    def __init__(self, config: RunConfig, images: ImageSet, context: Context) -> None:
        self._config = config
        self._context = context
        self._extractor = load_extractor(config.eval.extractor, context.device)
        self._channels = images.manifest.channels
        self._of_digits = _shows_digits(images.manifest)
        classes = len(images.manifest.classes or ()) if config.model.conditional else 0
        self._classes = torch.zeros(classes, dtype=torch.float64, device=context.device)
        self._resolution = resolution = image_resolution(config, images)
        mine = range(context.rank, len(images.group_rows), context.world_size)
        batches = (to_batch(images.read_group(group), images, resolution) for group in mine)
        self._reference, self._real_distance = self._measure(self._counted(batches), None)
        if context.world_size > 1:
            dist.all_reduce(self._classes)

    def __call__(self, generator: nn.Module) -> Measurement:
        """Return what is found; every rank calls it and gets the same.

        The latents are the same at every call, so that two values differ by the weights alone.
        """
        modes = self._modes()
        moments, distance = self._measure(self._samples(generator), modes)
        indicators = {"diversity": distance / self._real_distance if self._real_distance else 0.0}
        if modes is not None:
            modes.all_reduce()
            indicators["modes"] = float(modes.hit)
        return Measurement(frechet_distance(moments, self._reference), indicators)

    def _modes(self) -> Modes | None:
        if not self._of_digits or not isinstance(self._extractor, Digits):
            return None
        return Modes(self._extractor, self._channels, self._context.device)

    def _counted(self, batches: Iterator[Batch]) -> Iterator[Tensor]:
        """Yield batches' images, noting how frequent each class is."""
        for batch in batches:
            if len(self._classes) and batch.labels is not None:
                counts = torch.bincount(batch.labels, minlength=len(self._classes))
                self._classes += counts.to(self._classes)
            yield batch.images

    def _samples(self, generator: nn.Module) -> Iterator[Tensor]:
        config, context = self._config, self._context
        count = config.eval.samples
        latents = randomness.normal((count, config.model.latent_dim), config.seed, "latents-eval")
        labels = self._labels(count)
        mine = range(context.rank * CHUNK, count, context.world_size * CHUNK)
        for start in mine:
            chunk = slice(start, start + CHUNK)
            chosen = None if labels is None else labels[chunk]
            yield generate(generator, latents[chunk].to(context.device), chosen)

    def _labels(self, count: int) -> Tensor | None:
        """Return classes for `count` images, as frequent as in the set."""
        if not len(self._classes):
            return None
        draws = randomness.uniform((count,), self._config.seed, "labels-eval").double()
        ends = self._classes.cumsum(0) / self._classes.sum()
        chosen = torch.searchsorted(ends, draws.to(ends.device), right=True)
        return chosen.clamp(max=len(self._classes) - 1)

    def _measure(self, batches: Iterator[Tensor], modes: Modes | None) -> tuple[Moments, float]:
        """Return features' moments and the RMS distance between two images, over all ranks."""
        device = self._context.device
        moments = Moments.empty(self._extractor.dim, device)
        pixels = self._channels * self._resolution**2
        # Count, sum of squared norms, sums of pixels: E|x - y|^2 = 2 (E|x|^2 - |E x|^2), in any order.
        sums = torch.zeros(2 + pixels, dtype=torch.float64, device=device)
        for batch in batches:
            for chunk in batch.split(CHUNK):
                images = chunk.to(device)
                moments.update(self._extractor(images))
                values = images.flatten(1).double()
                sums[0] += len(values)
                sums[1] += values.square().sum()
                sums[2:] += values.sum(0)
                if modes is not None:
                    modes.update(images)
        if self._context.world_size > 1:
            dist.all_reduce(sums)
        square, mean = sums[1] / sums[0], sums[2:] / sums[0]
        return all_reduce(moments, device), float((2 * (square - mean.square().sum())).clamp(min=0).sqrt())


def _shows_digits(manifest: Manifest) -> bool:
    """Whether a set's classes are the digits that its channels show, by their names."""
    channels = manifest.channels
    return manifest.classes == tuple(f"{number:0{channels}d}" for number in range(10**channels))


@torch.no_grad()
def generate(generator: nn.Module, latents: Tensor, labels: Tensor | None = None) -> Tensor:
    """Return a generator's images for latents (n, latent_dim) and classes (n,), uint8 (n, C, R, R)."""
    return to_uint8(generator(latents, labels))
