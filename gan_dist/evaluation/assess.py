"""Measure a release as a paper would report it: many images, repeats with their spread, a test of copying."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from statistics import mean, stdev
from typing import Any

import torch
from PIL.Image import Image
from torch import Tensor

from gan_dist.core.images import image_grid
from gan_dist.core.memory import explain_out_of_memory
from gan_dist.evaluation.images import BLOCK, RealImages
from gan_dist.evaluation.metrics.distances import bias_warning, extrapolate, frechet_distance
from gan_dist.evaluation.metrics.memorisation import NearestNeighbours, choose_queries, copying_test
from gan_dist.evaluation.reference import Reference, ReferenceCache, statistics_key
from gan_dist.evaluation.scores import compute_scores, require_possible
from gan_dist.evaluation.statistics import FeatureStatistics, stored_features
from gan_dist.evaluation.tasks import (
    EvaluationWorker,
    FindNearest,
    MeasureGenerated,
    MeasureReal,
    Request,
    Task,
    TaskRunner,
    split_row_groups,
    worker_for,
)

STAGES = 10
"""Numbers of images from whose distances that of infinitely many images is extrapolated."""
PAIRS = 16
"""Generated images in the picture, each beside its nearest training image."""

Run = Callable[[Sequence[Task]], Iterator[Any]]
"""Runs tasks of one request, and yields their results in the order of the tasks."""


@dataclass(frozen=True)
class Assessment:
    """Result of an evaluation."""

    figures: dict[str, object]
    """Each score's mean over the repeats, its standard deviation as `<score>_std` where there are several
    repeats, and what the scores depend on."""
    nearest: Image | None
    """The generated images that are nearest to a training image, each to the left of it."""
    warnings: tuple[str, ...]


def assess(
    request: Request, run_tasks: TaskRunner, progress: Callable[[int, int], None] = lambda *_: None
) -> Assessment:
    """Measure a release; `progress` is called with the number of images processed so far, and of all.

    Raises:
        CapacityError: a GPU runs out of memory.
        DataError: the metrics cannot be computed for this set and this release.
        GanDistError: the set, the release or the extractor cannot be loaded.
    """
    with explain_out_of_memory(request.out_of_memory):
        return _assess(request, run_tasks, progress)


def _assess(request: Request, run_tasks: TaskRunner, progress: Callable[[int, int], None]) -> Assessment:
    local = worker_for(request)
    real = local.real_images(request.data)
    require_possible(local.extractor, request.metrics, min(request.samples, real.total))
    resolution, stored = local.release.shape.resolution, stored_features(request.metrics, real.total)
    key = statistics_key(local.images, local.extractor, resolution, stored, local.release.config.data.fit)
    cache = ReferenceCache(request.data, key)
    reference = cache.load()
    copying = "memorisation" in request.metrics
    total = request.samples * request.repeats
    total += real.total * (reference is None)
    total += local.real_images(local.trained_on).total if copying else 0
    run = _counted(request, run_tasks, total, progress)

    warnings = [bias_warning(count, local.extractor.dim) for count in (request.samples, real.total)]
    if reference is None:
        reference = _measure_real(local, real, run)
        warnings.append(cache.save(reference))
    repeats = [_measure_generated(local, reference, run, draw) for draw in range(request.repeats)]
    figures = _over_repeats([scores for _, scores in repeats])
    picture = None
    if copying:
        results, pairs = _find_copies(local, reference, repeats[0][0], run)
        figures |= results
        picture = image_grid(pairs, columns=8)
    figures |= {
        "metric": local.extractor.metric,
        **local.settings,
        "repeats": request.repeats,
        "seed": request.seed,
        "reference": request.data,
        "reference_images": reference.moments.count,
        **reference.floor,
    }
    return Assessment(figures, picture, tuple(warning for warning in warnings if warning))


def _counted(
    request: Request, run_tasks: TaskRunner, total: int, progress: Callable[[int, int], None]
) -> Run:
    """Return what runs tasks and calls `progress` with the images of all its calls so far, and `total`."""
    processed = 0
    progress(0, total)

    def run(tasks: Sequence[Task]) -> Iterator[Any]:
        nonlocal processed
        for task, result in zip(tasks, run_tasks(request, tasks), strict=True):
            yield result
            processed += task.images
            progress(processed, total)

    return run


def _measure_real(local: EvaluationWorker, real: RealImages, run: Run) -> Reference:
    statistics = local.empty_reference(real)
    for part in run([MeasureReal(*part) for part in split_row_groups(real)]):
        statistics.merge(part)
    return Reference.of(statistics)


def _measure_generated(
    local: EvaluationWorker, reference: Reference, run: Run, draw: int
) -> tuple[FeatureStatistics, dict[str, float]]:
    """Return the statistics and scores of one set of latents, with the extrapolated distance among them."""
    request, extractor = local.request, local.extractor
    step = max(BLOCK, -(-request.samples // (STAGES * BLOCK)) * BLOCK)
    statistics = local.empty_statistics(request.samples, inception_score="is" in request.metrics)
    distances: dict[int, float] = {}  # by number of images
    tasks = [
        MeasureGenerated(draw, start, min(start + step, request.samples), reference.labels)
        for start in range(0, request.samples, step)
    ]
    for part in run(tasks):
        statistics.merge(part)
        if statistics.moments.count >= extractor.dim:
            distances[statistics.moments.count] = frechet_distance(statistics.moments, reference.moments)
    scores = compute_scores(statistics, reference, extractor, request.metrics)
    if len(distances) > 1:
        scores[f"{extractor.metric}_infinity"] = extrapolate([*distances], [*distances.values()])
    return statistics, scores


def _over_repeats(repeats: list[dict[str, float]]) -> dict[str, object]:
    """Return each score's mean and, of several repeats, its sample standard deviation."""
    figures: dict[str, object] = {}
    for name in repeats[0]:
        values = [scores[name] for scores in repeats]
        figures[name] = mean(values)
        if len(values) > 1:
            figures[f"{name}_std"] = stdev(values)
    return figures


def _find_copies(
    local: EvaluationWorker, reference: Reference, statistics: FeatureStatistics, run: Run
) -> tuple[dict[str, object], Tensor]:
    """Compare the distances of generated images to the training set with those of real images.

    Returns figures, and uint8 (2 * pairs, C, H, W): the generated images that are nearest to a training
    image, each followed by that image.
    """
    if statistics.reservoir is None:
        raise ValueError("a test of copying needs the features of the generated images")
    features, numbers = choose_queries(
        statistics.reservoir.features.cpu(), statistics.reservoir.indices.cpu()
    )
    real_features, real_numbers = choose_queries(reference.features, reference.numbers)
    trained = local.real_images(local.trained_on)
    # Each image of the training set itself is compared with all others, which are as near to it as held-out
    # images would be. Sets are compared by content: here a path may be another than in training.
    same = trained.fingerprint == local.images.manifest.fingerprint()
    none = torch.full_like(torch.cat([numbers, real_numbers]), -1)
    excluded = torch.cat([none[: len(numbers)], real_numbers]) if same else none
    queries = torch.cat([features, real_features])

    nearest = NearestNeighbours(queries, excluded)
    for part in run([FindNearest(queries, excluded, *part) for part in split_row_groups(trained)]):
        nearest.merge(part)
    distances = nearest.distances[: len(features)]
    test = copying_test(distances, nearest.distances[len(features) :])
    figures: dict[str, object] = {
        "copying_z": test.z,
        "copied_share": test.share,
        "copying_reference": "leave-one-out" if same else "held-out",
    }
    generated = local.generated_images(0, reference.labels)
    pairs = []
    for query in distances.argsort(stable=True)[:PAIRS].tolist():
        block, place = divmod(int(numbers[query]), BLOCK)
        image = generated.block(block, local.device)[place].cpu()
        pairs += [image, trained.image(int(nearest.indices[query]))]
    return figures, torch.stack(pairs)
