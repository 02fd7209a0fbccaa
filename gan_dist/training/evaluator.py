"""Evaluation of the averaged generator, by all ranks together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from gan_dist.config import RunConfig
from gan_dist.core.distributed import Process, broadcast_from_rank0
from gan_dist.core.image_size import ImageSize
from gan_dist.data.batches.loader import image_resolution
from gan_dist.data.shards.manifest import ImageSet, Manifest
from gan_dist.evaluation.extractors import load_extractor
from gan_dist.evaluation.extractors.digits import Digits
from gan_dist.evaluation.extractors.features import Extractor
from gan_dist.evaluation.images import GeneratedImages, RealImages, block_slices
from gan_dist.evaluation.metrics.class_scores import DigitModes
from gan_dist.evaluation.metrics.distances import bias_warning
from gan_dist.evaluation.metrics.subsets import distance_noise, groups, halves
from gan_dist.evaluation.reference import Reference, ReferenceCache, alpha_setting, statistics_key
from gan_dist.evaluation.scores import compute_scores, require_possible
from gan_dist.evaluation.statistics import FeatureStatistics, stored_features


@dataclass(frozen=True)
class Measurement:
    """Result of an evaluation."""

    distance: float
    """The Frechet distance."""
    figures: dict[str, float]
    """All values by name, the distance included: see `gan_dist.evaluation.scores`; and perhaps `noise`."""


def counts_modes(extractor: Extractor, manifest: Manifest) -> bool:
    """Return whether evaluations count the modes: the classes are digits, or stacks of them."""
    channels = manifest.channels
    digits = tuple(f"{number:0{channels}d}" for number in range(10**channels))
    return manifest.classes == digits and isinstance(extractor, Digits)


class Evaluator:
    """Measures a generator's images against the whole image set.

    All ranks together compute the set's statistics in the constructor, unless they are cached.
    """

    def __init__(self, config: RunConfig, images: ImageSet, context: Process) -> None:
        self._config = config
        self._context = context
        self._extractor = load_extractor(
            config.eval.extractor, context.device, inception_weights=config.eval.inception_weights
        )
        fewest = min(config.eval.samples, images.manifest.count)
        require_possible(self._extractor, config.eval.metrics, fewest)
        self._resolution = image_resolution(config.data, images.manifest)
        channels = images.manifest.channels
        self._modes: Callable[[], DigitModes] | None = None
        if isinstance(self._extractor, Digits) and counts_modes(self._extractor, images.manifest):
            self._modes = partial(DigitModes, self._extractor, channels, context.device)
        self._reals = RealImages(images, self._resolution, config.data.fit)
        self._stored = stored_features(config.eval.metrics, config.eval.samples)
        if context.rank == 0:
            for count in (self._reals.total, config.eval.samples):
                if warning := bias_warning(count, self._extractor.dim):
                    context.warn(warning)
        self._reference, self._labels = self._known_or_computed(images)

    @property
    def metric(self) -> str:
        """Name of the distance."""
        return self._extractor.metric

    @property
    def settings(self) -> dict[str, object]:
        """Settings of the evaluation, for the records."""
        extractor = self._extractor
        return {
            "extractor": extractor.name,
            "extractor_sha256": extractor.hash,
            "resize": extractor.resize,
            **alpha_setting(self._reals.channels),
            **(self._reference.floor if self._reference else {}),
            "samples": self._config.eval.samples,
        }

    def __call__(self, generator: nn.Module, draw: int = 0, *, noise: bool = False) -> Measurement:
        """Return the measurement of a generator; every rank calls it and returns the same.

        The latents of a draw are the same at every call, so that only the weights change the result. With
        `noise` the figure of that name is the relative standard deviation of the distance over draws.

        Raises:
            NonFiniteError: an image or a feature is infinite or not a number.
        """
        context, samples = self._context, self._config.eval.samples
        statistics = self._empty_statistics(
            samples,
            inception_score="is" in self._config.eval.metrics,
            modes=self._modes and self._modes(),
            members=groups(samples) if noise else None,
        )
        labels = self._labels if self._config.model.conditional else None
        fakes = GeneratedImages(
            generator, self._config.model.latent_dim, self._resolution, labels, self._config.seed, draw
        )
        blocks = list(block_slices(0, samples))[context.rank :: context.world_size]
        statistics.add_blocks(self._extractor, fakes, blocks)
        statistics.all_reduce()
        figures: dict[str, float] = {}
        if context.rank == 0 and self._reference is not None:
            real, own = self._reference.moments, statistics.moments
            figures = compute_scores(statistics, self._reference, self._extractor, self._config.eval.metrics)
            if "memorisation" in self._config.eval.metrics and statistics.reservoir is not None:
                test = self._reference.copying(statistics.reservoir.features)
                figures |= {"copying_z": test.z, "copied_share": test.share}
            if statistics.subsets is not None:
                distance = figures[self.metric]
                figures["noise"] = distance_noise(distance, own, statistics.subsets, real)
        figures = broadcast_from_rank0(context, figures)
        return Measurement(figures[self.metric], figures)

    def _known_or_computed(self, images: ImageSet) -> tuple[Reference | None, Tensor]:
        """Return the set's statistics (None on other ranks if cached), and the images of each class."""
        context = self._context
        cache = ReferenceCache(
            self._config.data.path,
            statistics_key(images, self._extractor, self._resolution, self._stored, self._config.data.fit),
        )
        reference = cache.load() if context.rank == 0 else None
        labels: Tensor | None = broadcast_from_rank0(context, reference and reference.labels)
        if labels is not None:
            return reference, labels
        members = halves(self._reals.total, self._extractor.dim)
        statistics = self._empty_statistics(self._reals.total, members=members)
        mine = self._reals.groups[context.rank :: context.world_size]
        statistics.add_row_groups(self._extractor, self._reals, mine)
        statistics.all_reduce()
        reference = Reference.of(statistics)
        if context.rank == 0 and (warning := cache.save(reference)):
            context.warn(warning)
        return reference, reference.labels

    def _empty_statistics(
        self,
        total: int,
        *,
        inception_score: bool = False,
        modes: DigitModes | None = None,
        members: Tensor | None = None,
    ) -> FeatureStatistics:
        return FeatureStatistics.empty(
            self._extractor,
            total,
            stored=min(self._stored, total),
            image_values=self._reals.channels * ImageSize.of(self._resolution).area,
            classes=self._reals.classes,
            inception_score=inception_score,
            modes=modes,
            members=members,
            device=self._context.device,
        )
