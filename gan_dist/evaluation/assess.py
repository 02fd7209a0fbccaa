"""A release measured as a paper would quote it: many images, repeated, with the spread."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from statistics import mean, stdev
from typing import cast

from PIL.Image import Image

from gan_dist.core.images import image_grid
from gan_dist.core.memory import explain_out_of_memory
from gan_dist.evaluation.copying import find_copies
from gan_dist.evaluation.images import BLOCK, Reals
from gan_dist.evaluation.metrics.frechet import bias_warning, extrapolate, frechet_distance
from gan_dist.evaluation.reference import Cache, Reference, statistics_key
from gan_dist.evaluation.scores import require_possible, scores
from gan_dist.evaluation.statistics import FeatureStatistics, kept
from gan_dist.evaluation.tasks import (
    CountedWorkers,
    EvaluationWorker,
    Request,
    TallyFakes,
    TallyReals,
    Workers,
    spans,
    studio,
)

STAGES = 10
"""Numbers of images at which the distance is taken, to be extrapolated to infinitely many."""


@dataclass(frozen=True)
class Assessment:
    """What was found."""

    figures: dict[str, object]
    """Each score's mean over the repeats, its standard deviation as `<score>_std` where there are several,
    and what it depends on."""
    nearest: Image | None
    """The generated images that are nearest to a training image, each to the left of it."""
    warnings: tuple[str, ...]


def assess(request: Request, workers: Workers, progress: Callable[[int, int], None]) -> Assessment:
    """Measure a release.

    Args:
        request: What, and how.
        workers: Who does the parts.
        progress: Called with the images that have been seen, and those that will have been at the end.

    Raises:
        CapacityError: a GPU's memory does not hold it.
        DataError: the set, the release and the metrics do not go together.
        GanDistError: something of them cannot be loaded.
    """
    with explain_out_of_memory(request.out_of_memory):
        return _assess(request, workers, progress)


def _assess(request: Request, workers: Workers, progress: Callable[[int, int], None]) -> Assessment:
    local = studio(request)
    reals = local.reals(request.data)
    require_possible(local.extractor, request.metrics, min(request.samples, reals.total))
    cache = Cache(
        request.data,
        statistics_key(
            local.images, local.extractor, local.release.shape.resolution, kept(request.metrics, reals.total)
        ),
    )
    reference = cache.load()
    copying = "memorisation" in request.metrics
    total = request.samples * request.repeats
    total += reals.total * (reference is None) + (local.reals(local.trained_on).total if copying else 0)
    counted = CountedWorkers(request, workers, total, progress)

    few = [bias_warning(count, local.extractor.dim) for count in (request.samples, reals.total)]
    warnings = [warning for warning in few if warning]
    if reference is None:
        reference = _reference(local, reals, counted)
        warnings += [warning for warning in [cache.save(reference)] if warning]
    draws = [_draw(local, reference, counted, draw) for draw in range(request.repeats)]
    figures = _over_repeats([draw.figures for draw in draws])
    picture = None
    if copying:
        copies = find_copies(local, reference, draws[0].tally, counted)
        figures |= copies.figures
        picture = image_grid(copies.pairs, columns=8)
    return Assessment(figures | _conditions(local, reference), picture, tuple(warnings))


def _reference(local: EvaluationWorker, reals: Reals, workers: CountedWorkers) -> Reference:
    """Return the statistics of the set to compare with."""
    tally = local.tally(reals.total, classes=reals.classes)
    for part in workers([TallyReals(groups, images) for groups, images in spans(reals)]):
        tally.merge(cast(FeatureStatistics, part))
    return Reference.of(tally)


@dataclass(frozen=True)
class _Draw:
    tally: FeatureStatistics
    figures: dict[str, float]


def _draw(local: EvaluationWorker, reference: Reference, workers: CountedWorkers, draw: int) -> _Draw:
    """Return the figures of one set of latents, and the distance extrapolated from growing parts of it."""
    request, extractor = local.request, local.extractor
    step = max(BLOCK, -(-request.samples // (STAGES * BLOCK)) * BLOCK)
    starts = range(0, request.samples, step)
    tally = local.tally(request.samples, class_score="is" in request.metrics)
    stages: dict[int, float] = {}
    parts = [
        TallyFakes(draw, start, min(start + step, request.samples), reference.labels) for start in starts
    ]
    for part in workers(parts):
        tally.merge(cast(FeatureStatistics, part))
        if tally.moments.count >= extractor.dim:
            stages[tally.moments.count] = frechet_distance(tally.moments, reference.moments)
    figures = scores(tally, reference, extractor, request.metrics)
    if len(stages) > 1:
        figures[f"{extractor.metric}_infinity"] = extrapolate([*stages], [*stages.values()])
    return _Draw(tally, figures)


def _over_repeats(draws: list[dict[str, float]]) -> dict[str, object]:
    """Return each score's mean and, of several, its sample standard deviation."""
    figures: dict[str, object] = {}
    for name in draws[0]:
        values = [draw[name] for draw in draws]
        figures[name] = mean(values)
        if len(values) > 1:
            figures[f"{name}_std"] = stdev(values)
    return figures


def _conditions(local: EvaluationWorker, reference: Reference) -> dict[str, object]:
    """Return what the figures depend on."""
    request, extractor = local.request, local.extractor
    return {
        "metric": extractor.metric,
        "extractor": extractor.name,
        "extractor_sha256": extractor.hash,
        "resize": extractor.resize,
        "resolution": local.release.shape.resolution,
        "samples": request.samples,
        "repeats": request.repeats,
        "seed": request.seed,
        "reference": request.data,
        "reference_images": reference.moments.count,
    }
