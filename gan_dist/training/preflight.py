"""Checks of a run that need no cluster, and its sizes for a dry run."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from gan_dist import models
from gan_dist.config import RunConfig
from gan_dist.core import storage
from gan_dist.data.batches.loader import open_images
from gan_dist.evaluation.extractors import load_extractor
from gan_dist.evaluation.scores import require_possible
from gan_dist.training import checkpoint as states
from gan_dist.training.loop import image_shape, require_same_run, total_images
from gan_dist.training.precision import PrecisionPolicy
from gan_dist.training.progress import RunResult


@dataclass(frozen=True)
class RunSummary:
    """Sizes and resources of a run."""

    run: str
    """URI of its folder."""
    image_count: int
    """Images in the training set."""
    image_shape: tuple[int, int, int]
    """Height, width and channels of the images in the set."""
    resolution: int
    """Edge in pixels of the images that the networks see."""
    generator_parameters: int
    discriminator_parameters: int
    images: int
    """Images of the whole run."""
    metric: str
    samples: int
    """Generated images of an evaluation."""
    every_kimg: float
    """Thousands of images between evaluations."""
    workers: int
    fewest_workers: int
    cpus_per_worker: float
    gpus_per_worker: float
    batch_per_worker: int
    """Images of a batch for each worker, if all workers are there."""

    @property
    def epochs(self) -> float:
        """Passes over the training set in the whole run."""
        return self.images / self.image_count


def summarise(config: RunConfig) -> RunSummary:
    """Return the sizes of a run; nothing is written, and the networks take no memory.

    Raises:
        DataError: the image set or the extractor is missing, or the set is too small for a metric.
        ConfigError: the networks cannot be built for these images, the precision cannot be used, or there is
            no such extractor.
    """
    storage.configure(config.storage.options)
    images = open_images(config.data.path)
    manifest = images.manifest
    shape = image_shape(config, images)
    with torch.device("meta"):
        networks = models.build(config.model, shape)
    if not config.scale.gpus_per_worker:
        PrecisionPolicy.of(config, torch.device("cpu"))
    extractor = load_extractor(
        config.eval.extractor, torch.device("cpu"), inception_weights=config.eval.inception_weights
    )
    require_possible(extractor, config.eval.metrics, min(config.eval.samples, manifest.count))
    generator, discriminator = (sum(p.numel() for p in network.parameters()) for network in networks)
    scale = config.scale
    return RunSummary(
        run=config.run_uri,
        image_count=manifest.count,
        image_shape=(manifest.height, manifest.width, manifest.channels),
        resolution=shape.resolution,
        generator_parameters=generator,
        discriminator_parameters=discriminator,
        images=total_images(config),
        metric=extractor.metric,
        samples=config.eval.samples,
        every_kimg=config.eval.every_kimg,
        workers=scale.workers,
        fewest_workers=scale.fewest,
        cpus_per_worker=scale.cpus_per_worker,
        gpus_per_worker=scale.gpus_per_worker,
        batch_per_worker=config.train.batch_size // scale.workers,
    )


def prepare(config: RunConfig) -> RunResult | None:
    """Raise an error if a run cannot succeed; return its result if it has ended already.

    Raises:
        DataError: the image set is missing.
        ConfigError: the networks cannot be built for these images.
        ResumeError: the folder belongs to another configuration.
    """
    summarise(config)
    run_uri = config.run_uri
    require_same_run(config, run_uri)
    images = states.newest_images(run_uri)
    if images >= total_images(config):
        return RunResult(images, finished=True, images_per_second=None, value=None)
    return None
