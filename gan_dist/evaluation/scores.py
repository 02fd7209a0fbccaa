"""Scores of generated images, computed from their statistics and those of real images."""

from __future__ import annotations

import torch

from gan_dist.core.errors import DataError
from gan_dist.evaluation.extractors.features import Extractor
from gan_dist.evaluation.metrics.distances import frechet_distance, kid
from gan_dist.evaluation.metrics.prdc import density_coverage, precision_recall
from gan_dist.evaluation.reference import Reference
from gan_dist.evaluation.statistics import FeatureStatistics

FEWEST = {"is": 10, "pr": 4, "dc": 6}
"""Images that a metric needs, where these are more than 2: one for each split of the Inception Score, or the
neighbours and one more."""


def compute_scores(
    generated: FeatureStatistics, real: Reference, extractor: Extractor, metrics: tuple[str, ...]
) -> dict[str, float]:
    """Return the scores of generated images, by name.

    These are the Frechet distance, as `extractor.metric`; `diversity`, the root mean squared distance between
    two generated images over that between two real ones (1 is right, 0 is one image); `modes` where they were
    counted; and those of `metrics`: `kid`, `is`, `pr` (`precision`, `recall`), `dc` (`density`, `coverage`).
    The latter have the extractor's name as a suffix, unless the features are those of FID.

    Raises:
        DataError: too few images for one of them.
    """
    suffix = "" if extractor.metric == "fid" else f"_{extractor.name}"
    scores = {
        extractor.metric: frechet_distance(generated.moments, real.moments),
        "diversity": generated.spread.distance / real.distance if real.distance else 0.0,
    }
    if generated.modes is not None:
        scores["modes"] = float(generated.modes.hit)
    if "is" in metrics and generated.inception_score is not None:
        scores[f"is{suffix}"] = generated.inception_score.scores.mean().item()
    reservoir = generated.reservoir
    features = torch.zeros(0, extractor.dim) if reservoir is None else reservoir.features
    reals = real.features.to(features.device)
    if "kid" in metrics:
        scores[f"kid{suffix}"] = kid(reals, features).mean().item()
    if "pr" in metrics:
        shares = precision_recall(reals, features)
        scores |= {f"precision{suffix}": shares.precision, f"recall{suffix}": shares.recall}
    if "dc" in metrics:
        balls = density_coverage(reals, features)
        scores |= {f"density{suffix}": balls.density, f"coverage{suffix}": balls.coverage}
    return scores


def score_names(extractor: Extractor, metrics: tuple[str, ...], *, modes: bool) -> tuple[str, ...]:
    """Return the names of the scores of an evaluation in training; `modes` says whether they are counted.

    These are those of `compute_scores`, and those of the test of copying.
    """
    suffix = "" if extractor.metric == "fid" else f"_{extractor.name}"
    own = {"pr": ("precision", "recall"), "dc": ("density", "coverage")}
    names = {one: [f"{name}{suffix}" for name in own.get(one, (one,))] for one in metrics}
    names |= {"memorisation": ["copying_z", "copied_share"]} if "memorisation" in metrics else {}
    further = (name for one in metrics for name in names[one])
    return extractor.metric, "diversity", *(("modes",) if modes else ()), *further


def possible_metrics(extractor: Extractor, images: int) -> list[str]:
    """Return those of `eval.metrics` that can be computed; `images` as for `require_possible`."""
    known = ("kid", "is", "pr", "dc", "memorisation")
    return [name for name in known if images >= FEWEST.get(name, 2) and (name != "is" or extractor.classes)]


def require_possible(extractor: Extractor, metrics: tuple[str, ...], images: int) -> None:
    """Refuse metrics that cannot be computed, before anything is computed.

    `images` is the number of generated or of real images, whichever are fewer.

    Raises:
        DataError: the Inception Score without classes, or too few images for one of the metrics.
    """
    for name in metrics:
        if images < (fewest := FEWEST.get(name, 2)):
            raise DataError(
                f"`{name}` needs at least {fewest} generated and as many real images; of one kind there are "
                f"{images}",
                "ask for more samples, or leave it out",
                keys=("eval.samples", "eval.metrics"),
            )
    if images < 2:
        raise DataError(
            f"a distance needs at least 2 generated and as many real images; of one kind there is {images}",
            "take a larger set, or ask for more samples",
            keys=("data.path", "eval.samples"),
        )
    if "is" in metrics and not extractor.classes:
        raise DataError(
            f"eval.metrics: `is` needs class probabilities and the extractor {extractor.name} has none",
            "leave it out, or use eval.extractor=inception or digits",
            keys=("eval.metrics", "eval.extractor"),
        )
