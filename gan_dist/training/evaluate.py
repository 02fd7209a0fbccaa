"""The averaged generator measured by all ranks together."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from gan_dist import randomness
from gan_dist.config import RunConfig
from gan_dist.data.loader import image_resolution, to_batch
from gan_dist.data.manifest import ImageSet
from gan_dist.metrics.features import load_extractor
from gan_dist.metrics.moments import Moments, all_reduce
from gan_dist.metrics.scores import frechet_distance
from gan_dist.release import to_uint8
from gan_dist.training.context import Context

CHUNK = 256


def metric_name(config: RunConfig) -> str:
    """Return the key under which the distance is recorded."""
    return f"fd_{config.eval.extractor}"


class Evaluator:
    """Measures the Frechet distance between a generator's images and the whole image set.

    Args:
        config: The run.
        images: Its set, whose statistics are computed now, by all ranks together.
        context: The process that this is.
    """

    def __init__(self, config: RunConfig, images: ImageSet, context: Context) -> None:
        self._config = config
        self._context = context
        self._extractor = load_extractor(config.eval.extractor, context.device)
        resolution = image_resolution(config, images)
        mine = range(context.rank, len(images.group_rows), context.world_size)
        groups = (to_batch(images.read_group(group), images, resolution).images for group in mine)
        self._reference = self._moments(groups)

    def __call__(self, generator: nn.Module) -> float:
        """Return the distance; every rank calls it and gets the same value.

        The latents are the same at every call, so that two values differ by the weights alone.
        """
        return frechet_distance(self._moments(self._samples(generator)), self._reference)

    def _samples(self, generator: nn.Module) -> Iterator[Tensor]:
        config, context = self._config, self._context
        latents = randomness.normal(
            (config.eval.samples, config.model.latent_dim), config.seed, "latents-eval"
        )
        for chunk in latents.split(CHUNK)[context.rank :: context.world_size]:
            yield generate(generator, chunk.to(context.device))

    def _moments(self, batches: Iterator[Tensor]) -> Moments:
        moments = Moments.empty(self._extractor.dim, self._context.device)
        for batch in batches:
            for chunk in batch.split(CHUNK):
                moments.update(self._extractor(chunk.to(self._context.device)))
        return all_reduce(moments, self._context.device)


@torch.no_grad()
def generate(generator: nn.Module, latents: Tensor) -> Tensor:
    """Return a generator's images for latents (n, latent_dim), uint8 (n, C, R, R)."""
    return to_uint8(generator(latents))
