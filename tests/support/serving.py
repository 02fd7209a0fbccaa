"""Releases to serve, and what `gan-dist sample` makes of them."""

from __future__ import annotations

from pathlib import Path

from PIL import Image

from gan_dist import models
from gan_dist.cluster.serve.query import ImageQuery
from gan_dist.config import load_config, to_yaml
from gan_dist.core import rng
from gan_dist.core.images import to_picture, to_png
from gan_dist.models import release
from gan_dist.models.generator import ImageShape, Release

CLASSES = 4


def measured(folder: Path, images: int, value: float, *overrides: str) -> str:
    """Write a run's best release, of a StyleGAN2 of 8x8 images in four classes; return the run's folder.

    Its weights are others for each number of images.
    """
    settings = [f"storage={folder}", "name=run", "model.name=stylegan2", "model.latent_dim=16"]
    settings += ["model.settings.w_dim=16", "model.settings.mapping_layers=2", "model.conditional=true"]
    config, shape = (
        load_config("digits", [*settings, *overrides]),
        ImageShape(8, 1, CLASSES, ("a", "b", "c", "d")),
    )
    generator = models.build_generator(config.model, shape)
    for number, weights in enumerate(generator.parameters()):
        weights.data.add_(0.3 * rng.normal(tuple(weights.shape), images, "served", number))
    release.best_writer(
        config.run_uri,
        generator,
        shape=shape,
        config_yaml=to_yaml(config),
        record={"images": images, "fd_digits": value},
        metric="fd_digits",
        picture=Image.new("L", (8, 8)),
    )()
    return config.run_uri


def sampled(of: Release, one: ImageQuery) -> bytes:
    """Return the file that `gan-dist sample --seeds SEED --single` writes."""
    labels = None if one.label is None else [one.label]
    return to_png(to_picture(of.truncated(one.truncation).sample(1, one.seed, labels)[0]))
