"""An evaluation of a release as tasks: pure functions, which any process can run."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, Protocol

import torch
from torch import Tensor

from gan_dist.core import storage
from gan_dist.core.errors import DataError, Problem
from gan_dist.core.images import lay_on_white
from gan_dist.core.memory import keep_freed_memory
from gan_dist.core.storage import StorageOptions
from gan_dist.data.batches.loader import open_images
from gan_dist.data.shards.manifest import ImageSet
from gan_dist.evaluation.extractors import load_extractor
from gan_dist.evaluation.extractors.features import Extractor
from gan_dist.evaluation.images import BLOCK, GeneratedImages, RealImages, block_slices
from gan_dist.evaluation.metrics.memorisation import NearestNeighbours
from gan_dist.evaluation.metrics.subsets import halves
from gan_dist.evaluation.reference import alpha_setting
from gan_dist.evaluation.statistics import FeatureStatistics, stored_features, to_cpu
from gan_dist.models import release
from gan_dist.models.generator import Release

TASK_IMAGES = 5_000
"""Real images of a task, at least."""


@dataclass(frozen=True)
class Request:
    """An evaluation that a user asks for."""

    source: str
    """A release, a checkpoint, or a run's folder."""
    data: str
    """The set to compare with."""
    metrics: tuple[str, ...]
    """Any of `kid`, `is`, `pr`, `dc`, `memorisation`; the Frechet distance is always computed."""
    samples: int
    """Generated images of a repeat."""
    repeats: int
    """Number of sets of latents."""
    extractor: str
    inception_weights: str | None
    seed: int
    storage: StorageOptions
    trust: tuple[str, ...] = ()
    """Import paths of code of the generator's maker that may be imported."""

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
    """Networks and image sets of one process for one request, loaded when they are first needed.

    With `gpu` it uses a GPU, where there is one.
    """

    def __init__(self, request: Request, *, gpu: bool) -> None:
        storage.configure(request.storage)
        keep_freed_memory()
        self.request = request
        self.device = torch.device("cuda" if gpu and torch.cuda.is_available() else "cpu")

    @cached_property
    def extractor(self) -> Extractor:
        request = self.request
        return load_extractor(request.extractor, self.device, inception_weights=request.inception_weights)

    @cached_property
    def release(self) -> Release:
        return release.load(self.request.source, self.device, trust=self.request.trust)

    @property
    def settings(self) -> dict[str, object]:
        """What distances depend on, besides the set."""
        shape = self.release.shape
        return {
            "extractor": self.extractor.name,
            "extractor_sha256": self.extractor.hash,
            "resize": self.extractor.resize,
            "resolution": shape.resolution,
            **alpha_setting(shape.channels),
            "samples": self.request.samples,
        }

    @property
    def trained_on(self) -> str:
        """The set that the generator was trained on."""
        return self.release.config.data.path

    @cached_property
    def images(self) -> ImageSet:
        """The set to compare with."""
        return open_images(self.request.data)

    def real_images(self, data: str) -> RealImages:
        """Return a set's images in the generator's resolution.

        Raises:
            DataError: they have other channels, or other classes than a conditional generator.
        """
        images = self.images if data == self.request.data else open_images(data)
        shape, channels = self.release.shape, images.manifest.channels
        if channels != shape.channels:
            raise DataError(
                f"the images of {data} have {channels} channels and the generator's have {shape.channels}",
                f"pack the set with --channels {shape.channels}",
            )
        classes = len(images.manifest.classes or ())
        if shape.classes and classes != shape.classes:
            raise DataError(
                f"the images of {data} have {classes} classes and the generator's have {shape.classes}, "
                "which it makes as often as the set has them",
                "pack the set with the labels that the generator was trained with",
            )
        return RealImages(images, shape.resolution, self.release.config.data.fit)

    def empty_reference(self, real: RealImages) -> FeatureStatistics:
        """Return statistics to which the images of the set to compare with will be added."""
        members = halves(real.total, self.extractor.dim)
        return self.empty_statistics(real.total, classes=real.classes, members=members)

    def generated_images(self, draw: int, frequencies: Tensor) -> GeneratedImages:
        """Return the generator's images of one set of latents, with classes as frequent as in the set."""
        shape, latent_dim = self.release.shape, self.release.latent_dim
        classes, seed = frequencies if shape.classes else None, self.request.seed
        return GeneratedImages(self.release.generator, latent_dim, shape.resolution, classes, seed, draw)

    def empty_statistics(
        self, total: int, *, classes: int = 0, inception_score: bool = False, members: Tensor | None = None
    ) -> FeatureStatistics:
        """Return statistics to which `total` images will be added, by this task and others."""
        shape, metrics = self.release.shape, self.request.metrics
        return FeatureStatistics.empty(
            self.extractor,
            total,
            stored=stored_features(metrics, total),
            image_values=shape.channels * shape.size.area,
            classes=classes,
            inception_score=inception_score,
            members=members,
            device=self.device,
        )


@lru_cache(maxsize=1)
def worker_for(request: Request, *, gpu: bool = True) -> EvaluationWorker:
    """Return this process's worker for a request; it has one at a time."""
    return EvaluationWorker(request, gpu=gpu)


class Task(Protocol):
    """A part of an evaluation."""

    @property
    def images(self) -> int:
        """Number of images that it processes."""

    def __call__(self, worker: EvaluationWorker) -> object:
        """Run the task; its result can be pickled and has its tensors on the CPU."""


@dataclass(frozen=True)
class MeasureGenerated:
    """Collect the statistics of generated images `start` to `stop` - 1 of a set of latents."""

    draw: int
    start: int
    stop: int
    frequencies: Tensor

    @property
    def images(self) -> int:
        return self.stop - self.start

    def __call__(self, worker: EvaluationWorker) -> FeatureStatistics:
        request = worker.request
        statistics = worker.empty_statistics(request.samples, inception_score="is" in request.metrics)
        generated = worker.generated_images(self.draw, self.frequencies)
        statistics.add_blocks(worker.extractor, generated, block_slices(self.start, self.stop))
        return to_cpu(statistics)


@dataclass(frozen=True)
class MeasureReal:
    """Collect the statistics of some row groups of the set to compare with."""

    groups: range
    images: int

    def __call__(self, worker: EvaluationWorker) -> FeatureStatistics:
        real = worker.real_images(worker.request.data)
        statistics = worker.empty_reference(real)
        statistics.add_row_groups(worker.extractor, real, self.groups)
        return to_cpu(statistics)


@dataclass(frozen=True)
class FindNearest:
    """Find for each query the nearest image in some row groups of the training set."""

    queries: Tensor
    excluded: Tensor
    groups: range
    images: int

    def __call__(self, worker: EvaluationWorker) -> NearestNeighbours:
        nearest = NearestNeighbours(self.queries.to(worker.device), self.excluded.to(worker.device))
        real = worker.real_images(worker.trained_on)
        for index in self.groups:
            first, batch = real.row_group(index)
            for start in range(0, len(batch.images), BLOCK):
                images = batch.images[start : start + BLOCK].to(worker.device)
                numbers = torch.arange(first + start, first + start + len(images), device=worker.device)
                nearest.update(numbers, worker.extractor(lay_on_white(images)).features)
        return to_cpu(nearest)


TaskRunner = Callable[[Request, Sequence[Task]], Iterator[Any]]
"""Runs tasks, in any processes, and yields their results in the order of the tasks."""


def run_here(request: Request, tasks: Sequence[Task]) -> Iterator[Any]:
    """Run tasks in this process, one after another."""
    for task in tasks:
        yield task(worker_for(request))


def split_row_groups(real: RealImages) -> list[tuple[range, int]]:
    """Return ranges of row groups of about TASK_IMAGES images, each with its number of images."""
    ranges: list[tuple[range, int]] = []
    first, images = 0, 0
    for group, rows in enumerate(real.group_rows):
        images += rows
        if images >= TASK_IMAGES or group == len(real.group_rows) - 1:
            ranges.append((range(first, group + 1), images))
            first, images = group + 1, 0
    return ranges
