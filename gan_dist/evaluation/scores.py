"""From what was kept of generated and of real images to the figures that are reported."""

from __future__ import annotations

import torch

from gan_dist.core.errors import DataError
from gan_dist.evaluation.extractors.features import Extractor
from gan_dist.evaluation.metrics.frechet import frechet_distance
from gan_dist.evaluation.metrics.kid import kid
from gan_dist.evaluation.metrics.prdc import density_coverage, precision_recall
from gan_dist.evaluation.reference import Reference
from gan_dist.evaluation.statistics import FeatureStatistics

FEWEST = {"is": 10, "pr": 4, "dc": 6}
"""Images without which a metric has no value: a split's one, or one more than the neighbours looked at."""


def named(score: str, extractor: Extractor) -> str:
    """Return what a score is called: alone with the features of FID, otherwise with its extractor's name."""
    return score if extractor.metric == "fid" else f"{score}_{extractor.name}"


def scores(
    found: FeatureStatistics, real: Reference, extractor: Extractor, metrics: tuple[str, ...]
) -> dict[str, float]:
    """Return the figures of generated images, by name.

    The Frechet distance, under `extractor.metric`; `diversity`, the root mean squared distance between two
    generated images over that between two real ones (1 is right, 0 is one image); `modes` where they were
    counted; and those of `metrics`: `kid`, `is`, `pr` (`precision`, `recall`), `dc` (`density`, `coverage`).

    Raises:
        DataError: too few images for one of them.
    """
    figures = {
        extractor.metric: frechet_distance(found.moments, real.moments),
        "diversity": found.spread.distance / real.distance if real.distance else 0.0,
    }
    if found.modes is not None:
        figures["modes"] = float(found.modes.hit)
    if "is" in metrics and found.class_score is not None:
        figures[named("is", extractor)] = found.class_score.mean
    features = torch.zeros(0, extractor.dim) if found.reservoir is None else found.reservoir.features
    reals = real.features.to(features.device)
    if "kid" in metrics:
        figures[named("kid", extractor)] = kid(reals, features).mean
    if "pr" in metrics:
        of = precision_recall(reals, features)
        figures |= {named("precision", extractor): of.precision, named("recall", extractor): of.recall}
    if "dc" in metrics:
        near = density_coverage(reals, features)
        figures |= {named("density", extractor): near.density, named("coverage", extractor): near.coverage}
    return figures


def require_possible(extractor: Extractor, metrics: tuple[str, ...], images: int) -> None:
    """Refuse what cannot be computed, before anything is.

    Args:
        extractor: What the features come from.
        metrics: What is asked for, besides the Frechet distance.
        images: How many there are of generated or of real ones, whichever are fewer.

    Raises:
        DataError: the Inception Score without classes, or too few images for one of the metrics.
    """
    for name in metrics:
        if images < FEWEST.get(name, 2):
            raise DataError(
                f"`{name}` needs at least {FEWEST.get(name, 2)} generated and as many real images",
                f"of one kind there are {images}: ask for more samples, or leave it out",
            )
    if images < 2:
        raise DataError(
            "a distance needs at least 2 generated and as many real images",
            f"of one kind there is {images}: take a larger set, or ask for more samples",
        )
    if "is" in metrics and not extractor.classes:
        raise DataError(
            f"eval.metrics: `is` needs class probabilities and the extractor {extractor.name} has none",
            "leave it out, or use eval.extractor=inception or digits",
        )
