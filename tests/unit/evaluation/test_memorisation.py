"""Nearest training images, exactly and in any order; and the test of copying, of known generators."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from gan_dist.core.errors import DataError
from gan_dist.evaluation.metrics import memorisation
from gan_dist.evaluation.metrics.memorisation import CopyingTest, NearestNeighbours, copying_test

pytestmark = pytest.mark.usefixtures("no_network")

Found = tuple[list[float], list[int]]


def features(count: int, seed: int = 0, dim: int = 8) -> torch.Tensor:
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))


def grid(count: int, seed: int) -> torch.Tensor:
    """Points float32 (count, 2) of a small grid: many are equal, or equally far from a query."""
    return torch.randint(0, 5, (count, 2), generator=torch.Generator().manual_seed(seed)).float()


def plain(queries: torch.Tensor, training: torch.Tensor, excluded: list[int]) -> Found:
    """The slow reference: each query with each row, the first of the nearest."""
    found = []
    for query, own in zip(queries.tolist(), excluded, strict=True):
        distances = [(math.dist(query, row), at) for at, row in enumerate(training.tolist()) if at != own]
        found.append(min(distances, default=(math.inf, -1)))
    return [distance for distance, _ in found], [at for _, at in found]


def result(nearest: NearestNeighbours) -> Found:
    return nearest.distances.tolist(), nearest.indices.tolist()


def distances_to(training: torch.Tensor, queries: torch.Tensor, *, themselves: bool = False) -> torch.Tensor:
    nearest = NearestNeighbours(queries, torch.arange(len(queries)) if themselves else None)
    nearest.update(torch.arange(len(training)), training)
    return nearest.distances


class TestNearestNeighbours:
    @settings(deadline=None, max_examples=80)
    @given(
        data=st.data(),
        count=st.integers(1, 40),
        queries=st.integers(1, 9),
        merged=st.booleans(),
        seed=st.integers(0, 1000),
    )
    def test_any_order_and_batches(
        self, data: st.DataObject, count: int, queries: int, merged: bool, seed: int
    ) -> None:
        order = torch.tensor(data.draw(st.permutations(range(count))))
        cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=5)))
        excluded = data.draw(st.lists(st.integers(-1, count - 1), min_size=queries, max_size=queries))
        training, wanted = grid(count, seed), grid(queries, seed + 1)
        nearest, other = (NearestNeighbours(wanted, torch.tensor(excluded)) for _ in range(2))
        for index, (start, stop) in enumerate(pairwise([0, *cuts, count])):
            batch = order[start:stop]
            (other if merged and index % 2 else nearest).update(batch, training[batch])
        nearest.merge(other)
        assert result(nearest) == plain(wanted, training, excluded)

    def test_blocks_do_not_matter(self, monkeypatch: pytest.MonkeyPatch) -> None:
        training, queries = features(50), features(7, seed=1)
        whole = distances_to(training, queries)
        monkeypatch.setattr(memorisation, "_PAIRS", 7 * 3)
        assert torch.equal(distances_to(training, queries), whole)

    def test_small_distances_far_from_zero(self) -> None:
        """A query that differs in one feature by one step of float32: expanded squares would give noise."""
        training = features(60) + 1000
        queries = training[20:23].clone()
        queries[:, 3] = torch.nextafter(queries[:, 3], torch.tensor(torch.inf))
        nearest = NearestNeighbours(queries)
        nearest.update(torch.arange(60), training)
        assert nearest.indices.tolist() == [20, 21, 22]
        assert nearest.distances.tolist() == [2.0**-14] * 3

    def test_equal_rows_are_at_distance_0_and_the_first_of_them_is_found(self) -> None:
        training = features(5).repeat(3, 1)
        nearest = NearestNeighbours(training[:5], torch.tensor([0, -1, 2, -1, -1]))
        nearest.update(torch.arange(14, -1, -1), training.flip(0))
        assert result(nearest) == ([0.0] * 5, [5, 1, 7, 3, 4])

    def test_no_row(self) -> None:
        nearest = NearestNeighbours(features(2), torch.tensor([4, -1]))
        nearest.update(torch.zeros(0, dtype=torch.int64), features(0))
        assert result(nearest) == ([math.inf] * 2, [-1] * 2)
        nearest.update(torch.tensor([4]), features(2)[1:])
        assert result(nearest) == ([math.inf, 0.0], [-1, 4])

    def test_bad_arguments_are_refused(self) -> None:
        with pytest.raises(DataError, match="2 images are not all finite"):
            NearestNeighbours(features(2) / 0)
        with pytest.raises(ValueError, match=r"excluded \(3,\)"):
            NearestNeighbours(features(2), torch.zeros(3))
        nearest = NearestNeighbours(features(2))
        with pytest.raises(DataError, match="3 images are not all finite"):
            nearest.update(torch.arange(3), features(3) / 0)
        with pytest.raises(ValueError, match=r"rows \(3, 9\)"):
            nearest.update(torch.arange(3), features(3, dim=9))
        with pytest.raises(ValueError, match="indices -1 to 1"):
            nearest.update(torch.arange(-1, 2), features(3))
        with pytest.raises(ValueError, match="3 queries into 2"):
            nearest.merge(NearestNeighbours(features(3)))


def z_by_pairs(generated: list[int], reference: list[int]) -> float:
    """The slow reference: U pair by pair, and its variance given the ties."""
    n, m = len(generated), len(reference)
    u = sum((ours > theirs) + (ours == theirs) / 2 for ours in generated for theirs in reference)
    _, ties = np.unique(generated + reference, return_counts=True)
    total = n + m
    variance = n * m / 12 * (total + 1 - (ties**3 - ties).sum() / (total * (total - 1)))
    return float((u - n * m / 2) / variance**0.5) if variance > 0 else 0.0


def tensor(values: list[int]) -> torch.Tensor:
    return torch.tensor(values, dtype=torch.float64)


class TestCopying:
    @settings(deadline=None, max_examples=100)
    @given(
        generated=st.lists(st.integers(0, 9), min_size=1, max_size=25),
        reference=st.lists(st.integers(0, 9), min_size=1, max_size=25),
    )
    def test_z_with_ties(self, generated: list[int], reference: list[int]) -> None:
        found = copying_test(tensor(generated), tensor(reference))
        assert found.z == pytest.approx(z_by_pairs(generated, reference), abs=1e-9)
        back = copying_test(tensor(reference), tensor(generated))
        assert back.z == pytest.approx(-found.z, abs=1e-9)

    def test_z_has_the_significance_of_mann_whitney(self) -> None:
        generated, reference = features(60).double()[:, 0] - 0.4, features(80, seed=1).double()[:, 0]
        test = stats.mannwhitneyu(
            generated.numpy(), reference.numpy(), use_continuity=False, method="asymptotic"
        )
        z = copying_test(generated, reference).z
        assert z < 0
        assert 2 * stats.norm.cdf(z) == pytest.approx(test.pvalue, rel=1e-9)

    def test_share(self) -> None:
        """Of 200 real images the nearest 1 % are two, at distances 0 and 1."""
        reference = tensor([*range(200)]).flip(0)
        assert copying_test(torch.tensor([0.0, 1.0, 1.5, 300.0]), reference).share == 0.5
        assert copying_test(reference, reference) == CopyingTest(z=0.0, share=0.01)

    def test_equal_distances(self) -> None:
        assert copying_test(torch.ones(5), torch.ones(9)) == CopyingTest(z=0.0, share=1.0)

    @pytest.mark.parametrize("held_out", [True, False])
    def test_known_generators(self, held_out: bool) -> None:
        """With held-out images as the reference, and with each training image left out in its turn."""
        training, honest = features(1000), features(1000, seed=1)
        reference = (
            distances_to(training, features(1000, seed=2))
            if held_out
            else distances_to(training, training, themselves=True)
        )

        def verdict(generated: torch.Tensor) -> CopyingTest:
            return copying_test(distances_to(training, generated), reference)

        assert abs(verdict(honest).z) < 3
        assert verdict(honest).share == pytest.approx(0.01, abs=0.01)
        assert verdict(training).z < -30
        assert verdict(training).share == 1
        noisy = verdict(training + 0.1 * features(1000, seed=3))
        assert noisy.z < -3
        assert noisy.share > 0.5
        poor = verdict(3 * honest)
        assert poor.z > 3
        assert poor.share < 0.01
        # A tenth is copied and the rest is poor: only the share tells.
        partly = verdict(torch.cat([training[:100], 3 * honest[:900]]))
        assert partly.z > 3
        assert partly.share >= 0.1

    def test_an_honest_generator_has_a_standard_normal_z(self) -> None:
        random: npt.NDArray[np.float64] = np.random.default_rng(0).random((400, 2, 40))
        z = [copying_test(*map(torch.from_numpy, pair)).z for pair in random]
        assert abs(np.mean(z)) < 0.2
        assert np.std(z) == pytest.approx(1, abs=0.15)

    def test_bad_distances_are_refused(self) -> None:
        with pytest.raises(DataError, match="5 generated images with 0 real ones"):
            copying_test(torch.ones(5), torch.ones(0))
        with pytest.raises(DataError, match=r"1 of 9 distances .* not finite"):
            copying_test(torch.tensor([1.0, 2.0, 3.0, torch.inf]), torch.ones(5))
