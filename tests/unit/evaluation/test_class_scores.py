"""The Inception Score from sums: torch-fidelity's numbers, in any batches and on any ranks."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import softmax
from scipy.stats import entropy

from gan_dist.core.errors import DataError
from gan_dist.evaluation.metrics.class_scores import InceptionScore
from tests.support.gloo import run_gloo

pytestmark = pytest.mark.usefixtures("no_network")

CLASSES = 7


def logits_of(count: int, scale: float = 3.0) -> torch.Tensor:
    return scale * torch.randn(count, CLASSES, generator=torch.Generator().manual_seed(count))


def plain(logits: torch.Tensor, splits: int) -> list[float]:
    """The slow reference: the definition, split by split, image by image."""
    p: npt.NDArray[np.float64] = softmax(logits.double().numpy(), axis=1)
    edges = [split * len(p) // splits for split in range(splits + 1)]
    parts = [p[start:end] for start, end in pairwise(edges)]
    return [float(np.exp(np.mean([entropy(row, part.mean(0)) for row in part]))) for part in parts]


def test_the_numbers_of_torch_fidelity() -> None:
    # Here, and not where each rank of other tests would import it too.
    from torch_fidelity.metric_isc import isc_features_to_metric

    logits = logits_of(1003)
    score = InceptionScore(CLASSES, len(logits))
    for batch in torch.randperm(len(logits)).split(64):
        score.update(batch, logits[batch])
    expected = isc_features_to_metric(logits, splits=10, shuffle=False)
    assert score.scores.mean().item() == pytest.approx(expected["inception_score_mean"], rel=1e-12)
    assert score.scores.std(correction=0).item() == pytest.approx(expected["inception_score_std"], rel=1e-9)
    assert score.scores.std() > 0.01


@settings(deadline=None, max_examples=80)
@given(data=st.data(), total=st.integers(1, 60), merged=st.booleans())
def test_any_order_batches_and_splits(data: st.DataObject, total: int, merged: bool) -> None:
    splits = data.draw(st.integers(1, min(total, 12)))
    order = torch.tensor(data.draw(st.permutations(range(total))))
    cuts = sorted(data.draw(st.lists(st.integers(0, total), max_size=5)))
    logits = logits_of(total)
    score, other = InceptionScore(CLASSES, total, splits), InceptionScore(CLASSES, total, splits)
    for index, (start, stop) in enumerate(pairwise([0, *cuts, total])):
        batch = order[start:stop]
        (other if merged and index % 2 else score).update(batch, logits[batch])
    score.merge(other)
    np.testing.assert_allclose(score.scores.numpy(), plain(logits, splits), rtol=1e-12)


@pytest.mark.parametrize("confidence", [100.0, 1e30])
def test_best_and_worst(confidence: float) -> None:
    """Sure of one class: p is 0 for the others, whose p log p is 0 and not NaN."""
    best, worst = InceptionScore(CLASSES, 4 * CLASSES, 4), InceptionScore(CLASSES, 4 * CLASSES, 4)
    numbers = torch.arange(4 * CLASSES)
    best.update(numbers, confidence * torch.eye(CLASSES).repeat(4, 1))
    worst.update(numbers, confidence * torch.eye(CLASSES)[:1].expand(4 * CLASSES, -1))
    assert best.scores.tolist() == pytest.approx([CLASSES] * 4, rel=1e-14)
    assert worst.scores.tolist() == pytest.approx([1] * 4, rel=1e-14)


def test_a_bfloat16_logit_is_widened_first() -> None:
    logits = logits_of(40).bfloat16()
    score = InceptionScore(CLASSES, 40, 2)
    score.update(torch.arange(40), logits)
    assert score.scores.tolist() == pytest.approx(plain(logits.float(), 2), rel=1e-12)


def on_a_rank(counts: list[int]) -> npt.NDArray[np.float64]:
    """On a rank: its share of the images, reduced over all ranks."""
    logits = logits_of(sum(counts))
    score = InceptionScore(CLASSES, len(logits), 3)
    mine = torch.randperm(len(logits), generator=torch.Generator().manual_seed(0)).split(counts)
    for batch in mine[dist.get_rank()].split(16):
        score.update(batch, logits[batch])
    score.all_reduce()
    return score.scores.numpy()


AT_LENGTH = [pytest.param(counts, marks=pytest.mark.soak) for counts in ([90], [40, 50])]


@pytest.mark.parametrize("counts", [[50, 0, 40], *AT_LENGTH], ids=str)
def test_ranks_equal_one_process(counts: list[int]) -> None:
    results = run_gloo(on_a_rank, len(counts), counts)
    for scores in results:
        np.testing.assert_allclose(scores, plain(logits_of(90), 3), rtol=1e-12)
        assert np.array_equal(scores, results[0])


def test_a_split_that_is_not_whole_is_refused() -> None:
    with pytest.raises(DataError, match="needs at least 10 images and there are 9"):
        InceptionScore(CLASSES, 9)
    score = InceptionScore(CLASSES, 30, 3)
    score.update(torch.arange(10), logits_of(10))
    score.update(torch.arange(20, 30), logits_of(10))
    with pytest.raises(
        DataError, match="split 1 of the Inception Score was given 0 of its 10 images, numbers 10 to 19"
    ):
        score.scores  # noqa: B018
    score.update(torch.arange(9, 20), logits_of(11))
    with pytest.raises(DataError, match=r"split 0 .* was given 11 of its 10 images, numbers 0 to 9"):
        score.scores  # noqa: B018


def test_bad_batches_are_refused() -> None:
    score = InceptionScore(CLASSES, 30, 3)
    for bad in (torch.nan, torch.inf, -torch.inf):
        logits = logits_of(4)
        logits[2, 3] = bad
        with pytest.raises(DataError, match="logits of 4 images are not all finite"):
            score.update(torch.arange(4), logits)
    for first in (-1, 27):
        with pytest.raises(ValueError, match=r"not in 0\.\.29"):
            score.update(torch.arange(first, first + 4), logits_of(4))
    with pytest.raises(ValueError, match=r"rows \(4, 6\) are not"):
        score.update(torch.arange(4), logits_of(4)[:, 1:])
    with pytest.raises(ValueError, match=r"indices \(3,\)"):
        score.update(torch.arange(3), logits_of(4))
