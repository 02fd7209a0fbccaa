"""Which generators make a good mixture: chosen by one half of the real images, judged by the other half.

The first two moments of a mixture's features are those of its members in the proportion of their weights
(`Moments.mixed`), so that the Frechet distance of any mixture follows from its members' moments: no image is
made to try one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from gan_dist.core.errors import DataError
from gan_dist.core.memory import explain_out_of_memory
from gan_dist.core.rng import permutation
from gan_dist.evaluation.images import GeneratedImages, RealImages, block_slices
from gan_dist.evaluation.metrics.distances import frechet_distance
from gan_dist.evaluation.metrics.moments import Moments
from gan_dist.evaluation.statistics import to_cpu
from gan_dist.evaluation.tasks import EvaluationWorker, Request
from gan_dist.models import release
from gan_dist.models.generator import Release
from gan_dist.models.mixture import Mixture

ROUNDS = 20
"""Picks of the greedy choice: weights are multiples of one over as many, at most."""


@dataclass(frozen=True)
class FoundMixture:
    """A mixture, and how it was judged; all are Frechet distances of as many images as the request says."""

    release: Release
    """The mixture, its heaviest member's configuration among it."""
    weights: Mapping[int, float]
    """Weight of each member by its number among the candidates, the heaviest first."""
    held_out: float
    """Distance from the half of the real images that had no part in the choice, of images made anew."""
    single: float
    """Distance of the first candidate from the same half, of other images than those of the choice too."""
    chosen: float
    """Distance from the half of the choice, by the members' moments."""
    real: float
    """Distance between the two halves of the real images."""
    figures: Mapping[str, object]
    """`held_out` by the extractor's metric, and what it depends on."""


def find_mixture(
    request: Request,
    candidates: Sequence[str],
    most: int,
    progress: Callable[[int, int], None] = lambda *_: None,
) -> FoundMixture:
    """Return the mixture of at most `most` generators that is nearest to one half of the real images.

    It is judged by the other half, and so is the first candidate. Everything is computed in this process, on
    a GPU if it has one.

    Args:
        request: What generators are compared with; its `source` does not count.
        candidates: Releases, two or more, of images of the same shape.
        most: 2 at least.
        progress: Called with the number of images processed so far, and of all.

    Raises:
        DataError: the set has too few images, or no mixture is nearer than one candidate alone; or what
            `assess` raises.
    """
    with explain_out_of_memory(request.out_of_memory):
        local = EvaluationWorker(replace(request, source=candidates[0]), gpu=True)
        real = local.real_images(request.data)
        total = real.total + (len(candidates) + 2) * request.samples
        judge = _Judge(local, real, lambda done: progress(done, total))

        def load(number: int) -> Release:
            return release.load(candidates[number], local.device, trust=request.trust)

        moments = [judge.moments(load(number), 0) for number in range(len(candidates))]
        weights, chosen = choose(moments, judge.choosing, most)
        if len(weights) < 2:
            raise DataError(
                f"no mixture of {len(candidates)} generators is nearer to half of the real images than "
                f"{candidates[next(iter(weights))]} alone",
                "use that release: gan-dist best without --mixture copies the best one",
            )
        members = [load(number) for number in weights]
        mixture = Mixture(
            [member.generator for member in members],
            [*weights.values()],
            [member.latent_dim for member in members],
        )
        mixed = replace(members[0], generator=mixture.eval().to(local.device), record={})
        held_out, single = (
            frechet_distance(judge.moments(one, 1), judge.held_out) for one in (mixed, local.release)
        )
        between = frechet_distance(judge.choosing, judge.held_out)
        figures = {
            "metric": local.extractor.metric,
            local.extractor.metric: held_out,
            **local.settings,
            "seed": request.seed,
            "reference": request.data,
            "reference_images": judge.held_out.count,
        }
        return FoundMixture(mixed, weights, held_out, single, chosen, between, figures)


class _Judge:
    """Moments of two halves of the real images, and of generators' images.

    The halves are a pure function of the request's seed and the number of images: of a permutation, the first
    half is for choosing and the second, `held_out`, for judging.
    """

    def __init__(self, local: EvaluationWorker, real: RealImages, progress: Callable[[int], None]) -> None:
        if real.total < 4:
            raise DataError(
                f"a choice by one half and a judgement by the other need 4 images at least, and the set has "
                f"{real.total}",
                "take a larger set",
            )
        self._local, self._progress, self._processed = local, progress, 0
        progress(0)
        order = torch.from_numpy(permutation(real.total, local.request.seed, "mixture halves"))
        chosen_by = torch.zeros(real.total, dtype=torch.bool)
        chosen_by[order[: real.total // 2]] = True
        halves = [local.empty_statistics(real.total, classes=real.classes) for _ in range(2)]
        for index in real.groups:
            first, batch = real.row_group(index)
            rows = chosen_by[first : first + len(batch.images)]
            for half, mask in zip(halves, (rows, ~rows), strict=True):
                labels = None if batch.labels is None else batch.labels[mask]
                half.add(local.extractor, first, batch.images[mask], labels, "real")
            self._advance(len(rows))
        self.choosing, self.held_out = (to_cpu(half).moments for half in halves)
        self._labels = halves[0].labels + halves[1].labels

    def moments(self, measured: Release, draw: int) -> Moments:
        """Return the moments of a release's images of one set of latents, as many as the request says."""
        local, samples, shape = self._local, self._local.request.samples, measured.shape
        classes, seed = self._labels if shape.classes else None, self._local.request.seed
        resolution = shape.resolution
        generated = GeneratedImages(measured.generator, measured.latent_dim, resolution, classes, seed, draw)
        statistics = local.empty_statistics(samples)
        for index, part in block_slices(0, samples):
            statistics.add_blocks(local.extractor, generated, [(index, part)])
            self._advance(part.stop)
        return to_cpu(statistics).moments

    def _advance(self, images: int) -> None:
        self._processed += images
        self._progress(self._processed)


def choose(candidates: Sequence[Moments], real: Moments, most: int) -> tuple[dict[int, float], float]:
    """Return the weights of a mixture by the number of each candidate in it, and its distance from `real`.

    Greedy forward selection with replacement (Caruana et al. 2004, "Ensemble Selection from Libraries of
    Models", section 2.1): ROUNDS times the candidate is added that makes the mixture's distance the least,
    where each counts as often as it was added; the best of all rounds is the result. At most `most` different
    ones are added. Of equal distances the first candidate's is taken.
    """
    picks: list[int] = []
    best: tuple[float, list[int]] = (float("inf"), [])
    for _ in range(ROUNDS):
        members = set(picks)
        possible = range(len(candidates)) if len(members) < most else sorted(members)
        distance, pick = min(
            (frechet_distance(_mixed(candidates, [*picks, one]), real), one) for one in possible
        )
        picks.append(pick)
        best = min(best, (distance, [*picks]), key=lambda found: found[0])
    return _shares(best[1]), best[0]


def _mixed(candidates: Sequence[Moments], picks: Sequence[int]) -> Moments:
    shares = _shares(picks)
    return Moments.mixed([candidates[one] for one in shares], [*shares.values()])


def _shares(picks: Sequence[int]) -> dict[int, float]:
    """Return the share of each candidate among the picks, the largest first."""
    order = sorted({*picks}, key=lambda one: (-picks.count(one), one))
    return {one: picks.count(one) / len(picks) for one in order}
