"""The parts that an evaluation of a release is cut into: each a pure function, done by whoever is free."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Protocol

import torch
from torch import Tensor

from gan_dist.core import storage
from gan_dist.core.errors import DataError, Problem
from gan_dist.core.memory import keep_freed_memory
from gan_dist.core.storage import StorageOptions
from gan_dist.data.batches.loader import open_images
from gan_dist.data.shards.manifest import ImageSet
from gan_dist.evaluation.extractors import load_extractor
from gan_dist.evaluation.extractors.features import Extractor
from gan_dist.evaluation.images import BLOCK, Fakes, Reals, blocks
from gan_dist.evaluation.metrics.memorisation import NearestNeighbours
from gan_dist.evaluation.reference import tally_groups
from gan_dist.evaluation.statistics import FeatureStatistics, kept, to_cpu
from gan_dist.models import release
from gan_dist.models.generator import Release

PART_IMAGES = 5_000
"""Real images in a part of the work, at least."""


@dataclass(frozen=True)
class Request:
    """What is to be evaluated, and how."""

    source: str
    """A release, a checkpoint, or a run's folder."""
    data: str
    """The set to compare with."""
    metrics: tuple[str, ...]
    """Any of `kid`, `is`, `pr`, `dc`, `memorisation`; the Frechet distance is always measured."""
    samples: int
    repeats: int
    extractor: str
    inception_weights: str | None
    seed: int
    storage: StorageOptions

    def out_of_memory(self) -> Problem:
        """Return the problem of a GPU that cannot hold this evaluation."""
        names = ",".join(("fid", *self.metrics))
        fewer = f"fewer of --metrics {names}, --samples below {self.samples}, " if self.metrics else ""
        return Problem(
            f"a GPU's memory does not hold the evaluation of --metrics {names} with --samples {self.samples}",
            f"use {fewer}--gpus-per-worker 1 where workers share a GPU, or GPUs with more memory; or end "
            "what else runs on them",
        )


class EvaluationWorker:
    """A process's networks and sets for one request, loaded when they are first needed.

    Args:
        request: The request.
        gpu: Whether a GPU may be used, where there is one.
    """

    def __init__(self, request: Request, *, gpu: bool) -> None:
        storage.configure(request.storage)
        keep_freed_memory()
        self.request = request
        self.device = torch.device("cuda" if gpu and torch.cuda.is_available() else "cpu")

    @cached_property
    def extractor(self) -> Extractor:
        """The network that features come from."""
        request = self.request
        return load_extractor(request.extractor, self.device, inception_weights=request.inception_weights)

    @cached_property
    def release(self) -> Release:
        """The generator."""
        return release.load(self.request.source, self.device)

    @property
    def trained_on(self) -> str:
        """The set that the generator has learned from."""
        return self.release.config.data.path

    @cached_property
    def images(self) -> ImageSet:
        """The set to compare with."""
        return open_images(self.request.data)

    def reals(self, data: str) -> Reals:
        """Return a set's images in the generator's resolution.

        Raises:
            DataError: they have another number of channels.
        """
        images = self.images if data == self.request.data else open_images(data)
        shape, channels = self.release.shape, images.manifest.channels
        if channels != shape.channels:
            raise DataError(
                f"the images of {data} have {channels} channels and the generator's have {shape.channels}: "
                f"pack the set with --channels {shape.channels}"
            )
        return Reals(images, shape.resolution)

    def fakes(self, draw: int, frequencies: Tensor) -> Fakes:
        """Return the generator's images of one draw, with classes as frequent as in the set."""
        request, made = self.request, self.release
        latent_dim = made.config.model.latent_dim
        classes = frequencies if made.shape.classes else None
        return Fakes(made.generator, latent_dim, made.shape.resolution, classes, request.seed, draw)

    def tally(self, total: int, *, classes: int = 0, class_score: bool = False) -> FeatureStatistics:
        """Return an empty tally of that many images."""
        shape, metrics = self.release.shape, self.request.metrics
        return FeatureStatistics.empty(
            self.extractor,
            total,
            keep=kept(metrics, total),
            image_values=shape.channels * shape.resolution**2,
            classes=classes,
            class_score=class_score,
            device=self.device,
        )


@lru_cache(maxsize=1)
def studio(request: Request, *, gpu: bool = True) -> EvaluationWorker:
    """Return this process's studio; a process serves one request at a time."""
    return EvaluationWorker(request, gpu=gpu)


class Part(Protocol):
    """A part of the work."""

    @property
    def images(self) -> int:
        """Images that it goes through."""

    def __call__(self, studio: EvaluationWorker) -> object:
        """Do it; the result can be pickled, on the CPU."""


@dataclass(frozen=True)
class TallyFakes:
    """FeatureStatistics images `start` to `stop` - 1 of a draw."""

    draw: int
    start: int
    stop: int
    frequencies: Tensor

    @property
    def images(self) -> int:
        return self.stop - self.start

    def __call__(self, studio: EvaluationWorker) -> FeatureStatistics:
        request = studio.request
        tally = studio.tally(request.samples, class_score="is" in request.metrics)
        fakes = studio.fakes(self.draw, self.frequencies)
        for index, part in blocks(self.start, self.stop):
            images = fakes.block(index, studio.device)[part]
            tally.add(studio.extractor, BLOCK * index + part.start, images, None, "generated")
        return to_cpu(tally)


@dataclass(frozen=True)
class TallyReals:
    """FeatureStatistics some row groups of the set to compare with."""

    groups: range
    images: int

    def __call__(self, studio: EvaluationWorker) -> FeatureStatistics:
        reals = studio.reals(studio.request.data)
        tally = studio.tally(reals.total, classes=reals.classes)
        return to_cpu(tally_groups(tally, studio.extractor, reals, self.groups))


@dataclass(frozen=True)
class FindNearest:
    """Find for each query the nearest image in some row groups of the set that was trained on."""

    queries: Tensor
    excluded: Tensor
    groups: range
    images: int

    def __call__(self, studio: EvaluationWorker) -> NearestNeighbours:
        nearest = NearestNeighbours(self.queries.to(studio.device), self.excluded.to(studio.device))
        reals = studio.reals(studio.trained_on)
        for index in self.groups:
            first, batch = reals.group(index)
            for start in range(0, len(batch.images), BLOCK):
                images = batch.images[start : start + BLOCK].to(studio.device)
                numbers = torch.arange(first + start, first + start + len(images), device=studio.device)
                nearest.update(numbers, studio.extractor(images).features)
        return to_cpu(nearest)


Workers = Callable[[Request, Sequence[Part]], Iterator[object]]
"""Does parts wherever it likes, and yields their results in order."""


def here(request: Request, parts: Sequence[Part]) -> Iterator[object]:
    """Do parts in this process, one after another."""
    for part in parts:
        yield part(studio(request))


class CountedWorkers:
    """Workers whose progress over all calls is told.

    Args:
        request: What they work for.
        workers: The workers.
        total: Images that all calls together will go through.
        progress: Called with the images so far, and `total`.
    """

    def __init__(
        self, request: Request, workers: Workers, total: int, progress: Callable[[int, int], None]
    ) -> None:
        self._request, self._workers = request, workers
        self._total, self._progress = total, progress
        self._seen = 0
        progress(0, total)

    def __call__(self, parts: Sequence[Part]) -> Iterator[object]:
        """Yield the results of parts, in order."""
        for part, result in zip(parts, self._workers(self._request, parts), strict=True):
            yield result
            self._seen += part.images
            self._progress(self._seen, self._total)


def spans(reals: Reals) -> list[tuple[range, int]]:
    """Return a set cut into row groups of about PART_IMAGES images, with the images of each."""
    found: list[tuple[range, int]] = []
    first, images = 0, 0
    for group, rows in enumerate(reals.group_rows):
        images += rows
        if images >= PART_IMAGES or group == len(reals.group_rows) - 1:
            found.append((range(first, group + 1), images))
            first, images = group + 1, 0
    return found
