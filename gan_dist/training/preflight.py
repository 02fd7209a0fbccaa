"""What a run is going to be: sizes for a dry run, and the checks that need no cluster."""

from __future__ import annotations

import torch

from gan_dist import models
from gan_dist.config import RunConfig
from gan_dist.core import storage
from gan_dist.core.progress import Outcome
from gan_dist.data.batches.loader import open_images
from gan_dist.evaluation.extractors import load_extractor
from gan_dist.evaluation.scores import require_possible
from gan_dist.training import checkpoint as states
from gan_dist.training.loop import image_shape, require_same_run, total_images
from gan_dist.training.precision import PrecisionPolicy


def summarise(config: RunConfig) -> dict[str, object]:
    """Return a run's sizes; nothing is written, and the networks take no memory.

    Raises:
        DataError: the image set is missing, or its extractor, or its size, does not do for a metric.
        ConfigError: the networks cannot be built for these images, or not computed as configured; or there
            is no such extractor.
    """
    storage.configure(config.storage.options)
    images = open_images(config.data.path)
    manifest = images.manifest
    shape = image_shape(config, images)
    with torch.device("meta"):
        networks = models.build(
            config.model, resolution=shape.resolution, channels=shape.channels, classes=shape.classes
        )
    if not config.scale.gpus_per_worker:
        PrecisionPolicy.of(config, torch.device("cpu"))
    extractor = load_extractor(
        config.eval.extractor, torch.device("cpu"), inception_weights=config.eval.inception_weights
    )
    require_possible(extractor, config.eval.metrics, min(config.eval.samples, manifest.count))
    generator, discriminator = (sum(p.numel() for p in network.parameters()) for network in networks)
    scale = config.scale
    workers = f"{scale.workers}" if scale.fewest == scale.workers else f"{scale.fewest} to {scale.workers}"
    return {
        "run": config.run_uri,
        "images": f"{manifest.count} of {manifest.height}x{manifest.width}x{manifest.channels}, "
        f"read at {shape.resolution}x{shape.resolution}",
        "generator_parameters": generator,
        "discriminator_parameters": discriminator,
        "length": f"{total_images(config)} images, {total_images(config) / manifest.count:.1f} epochs",
        "metric": f"{extractor.metric} of {config.eval.samples} images every {config.eval.every_kimg:g} kimg",
        "placement": f"{workers} workers of {scale.cpus_per_worker:g} CPUs and "
        f"{scale.gpus_per_worker:g} GPUs, {config.train.batch_size // scale.workers} images each a batch",
    }


def prepare(config: RunConfig) -> Outcome | None:
    """Refuse a run that cannot succeed, before any cluster work; return its outcome if it has ended already.

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
        return Outcome(images, finished=True, images_per_second=None, value=None)
    return None
