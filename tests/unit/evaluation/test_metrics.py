from __future__ import annotations

import os
import time
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
import scipy.linalg
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_dist.core.errors import DataError
from gan_dist.evaluation.metrics.distances import bias_warning, extrapolate, frechet_distance
from gan_dist.evaluation.metrics.moments import Moments
from gan_dist.evaluation.metrics.subsets import Subsets, distance_noise, groups, halves, halves_distance
from tests.support.gloo import run_gloo

pytestmark = pytest.mark.usefixtures("no_network")

Array = npt.NDArray[np.float64]


def rows(count: int, dim: int, seed: int = 0, offset: float = 0.0) -> torch.Tensor:
    """Correlated Gaussian rows float64 (count, dim) with standard deviations around 1, `offset` from 0."""
    generator = torch.Generator().manual_seed(seed)
    mix = torch.randn(dim, dim, dtype=torch.float64, generator=generator) / dim**0.5
    result: torch.Tensor = torch.randn(count, dim, dtype=torch.float64, generator=generator) @ mix + offset
    return result


def check(moments: Moments, features: torch.Tensor, rtol: float = 1e-12) -> None:
    """Compare with NumPy on the data moved near zero, which is exact where the offset is a power of two."""
    shift = features[0]
    values = (features - shift).numpy()
    covariance = np.cov(values, rowvar=False).reshape(len(shift), len(shift))
    scale = float(np.abs(covariance).max())
    assert moments.count == len(features)
    np.testing.assert_allclose((moments.mean - shift).numpy(), values.mean(0), rtol=0, atol=rtol * scale**0.5)
    np.testing.assert_allclose(moments.covariance().numpy(), covariance, rtol=0, atol=rtol * scale)


class TestMoments:
    def test_plain(self) -> None:
        features = rows(500, 20)
        check(Moments.of(features), features)
        assert Moments.of(features).mean.dtype == torch.float64

    def test_mean_a_million_deviations_away(self) -> None:
        features = rows(3000, 12, offset=1e6)
        moments = Moments.empty(12)
        for batch in torch.split(features, 70):
            moments.update(batch)
        # A float64 of 1e6 has steps of 1.2e-10: the mean cannot be known better, and the covariance is.
        check(moments, features, rtol=1e-9)
        scale = np.cov(rows(3000, 12), rowvar=False)
        error = np.abs(moments.covariance().numpy() - np.cov((features - 1e6).numpy(), rowvar=False)).max()
        assert error < 3e-11 * np.abs(scale).max()

    @settings(deadline=None, max_examples=50)
    @given(
        cuts=st.lists(st.integers(0, 60), max_size=8),
        merged_at=st.integers(0, 8),
        offset=st.sampled_from([0.0, 2.0**10]),
    )
    def test_any_split_into_batches(self, cuts: list[int], merged_at: int, offset: float) -> None:
        features = rows(60, 5, seed=1, offset=offset)
        edges = [0, *sorted(cuts), 60]
        first, second = Moments.empty(5), Moments.empty(5)
        for index, (start, stop) in enumerate(pairwise(edges)):
            (first if index < merged_at else second).update(features[start:stop])
        first.merge(second)
        check(first, features, rtol=1e-11)

    def test_batches_beyond_the_internal_chunk(self) -> None:
        features = rows(9001, 3, offset=100.0)
        check(Moments.of(features), features, rtol=1e-11)

    def test_float32_rows_are_summed_in_float64(self) -> None:
        features = rows(5000, 4, offset=64.0).float()
        check(Moments.of(features), features.double())

    def test_rows_are_not_changed(self) -> None:
        features = rows(10, 3)
        before = features.clone()
        Moments.of(features)
        assert torch.equal(features, before)

    def test_covariance_needs_two_rows(self) -> None:
        for count in (0, 1):
            with pytest.raises(DataError, match=f"there are {count}"):
                Moments.of(rows(count, 3)).covariance()

    def test_shapes_are_checked(self) -> None:
        with pytest.raises(ValueError, match=r"\(4, 3\)"):
            Moments.empty(5).update(torch.zeros(4, 3))
        with pytest.raises(ValueError, match="3 features into 5"):
            Moments.empty(5).merge(Moments.empty(3))

    def test_without_a_group_there_is_nothing_to_reduce(self) -> None:
        moments, same = Moments.of(rows(10, 3)), Moments.of(rows(10, 3))
        moments.all_reduce()
        assert moments.count == same.count
        assert torch.equal(moments.mean, same.mean)
        assert torch.equal(moments.m2, same.m2)


def reduced(counts: list[int], dim: int, offset: float) -> tuple[int, Array, Array]:
    """On a rank: its rows' moments, reduced over all ranks."""
    features = rows(sum(counts), dim, offset=offset)
    start = sum(counts[: dist.get_rank()])
    moments = Moments.empty(dim)
    for batch in torch.split(features[start : start + counts[dist.get_rank()]], 16):
        moments.update(batch)
    moments.all_reduce()
    return moments.count, moments.mean.numpy(), moments.m2.numpy()


class TestAcrossRanks:
    @pytest.mark.parametrize(
        ("counts", "offset"),
        [
            ([50, 0, 1, 39], 2.0**20),
            *(pytest.param(counts, 0.0, marks=pytest.mark.soak) for counts in ([90], [40, 50])),
        ],
        ids=str,
    )
    def test_equals_one_process(self, counts: list[int], offset: float) -> None:
        results = run_gloo(reduced, len(counts), counts, 6, offset)
        for count, mean, m2 in results:
            check(
                Moments(count, torch.from_numpy(mean), torch.from_numpy(m2)), rows(90, 6, offset=offset), 1e-9
            )
            # Every rank decides from the same bits.
            assert np.array_equal(mean, results[0][1])
            assert np.array_equal(m2, results[0][2])

    def test_no_rows_anywhere(self) -> None:
        for count, mean, m2 in run_gloo(reduced, 2, [0, 0], 3, 0.0):
            assert count == 0
            assert not mean.any()
            assert not m2.any()


def failing(rank: int) -> int:
    if dist.get_rank() == rank:
        raise ArithmeticError("on purpose")
    dist.barrier()
    return dist.get_rank()


def dying() -> None:
    os._exit(1)


def sleeping() -> None:
    time.sleep(30)


class TestGloo:
    def test_one_thread_a_rank(self) -> None:
        assert run_gloo(torch.get_num_threads, 2) == [1, 1]

    def test_tensors_come_back_by_value(self) -> None:
        (tensor,) = run_gloo(torch.ones, 1, 1000)
        assert torch.equal(tensor, torch.ones(1000))

    def test_failures_and_limits(self) -> None:
        with pytest.raises(RuntimeError, match=r"(?s)rank 1 failed.*ArithmeticError: on purpose"):
            run_gloo(failing, 2, 1)
        with pytest.raises(RuntimeError, match="rank 0 failed: it died"):
            run_gloo(dying, 1)
        start = time.monotonic()
        with pytest.raises(TimeoutError, match=r"ranks \[0\]"):
            run_gloo(sleeping, 1, timeout_s=1.0)
        assert time.monotonic() - start < 10


def sqrtm_distance(a: Array, b: Array) -> float:
    """The slow reference: the definition, with SciPy's matrix square root."""
    cov_a, cov_b = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root: Any = scipy.linalg.sqrtm(cov_a @ cov_b)
    difference = a.mean(0) - b.mean(0)
    return float(difference @ difference + np.trace(cov_a) + np.trace(cov_b) - 2 * np.trace(root).real)


class TestFrechetDistance:
    @pytest.mark.parametrize("dim", [2, 3, 17, 64, 128])
    def test_against_sqrtm(self, dim: int) -> None:
        a, b = rows(4 * dim + 10, dim, seed=1), 1.3 * rows(5 * dim, dim, seed=2) + 0.2
        expected = sqrtm_distance(a.numpy(), b.numpy())
        distance = frechet_distance(Moments.of(a), Moments.of(b))
        assert distance == pytest.approx(expected, rel=1e-9)
        assert frechet_distance(Moments.of(b), Moments.of(a)) == pytest.approx(distance, rel=1e-12)

    @pytest.mark.parametrize(("dtype", "rel"), [(torch.float64, 1e-9), (torch.float32, 1e-5)])
    def test_against_torch_fidelity(self, dtype: torch.dtype, rel: float) -> None:
        from torch_fidelity.metric_fid import fid_features_to_statistics, fid_statistics_to_metric

        a, b = rows(400, 64, seed=1).to(dtype), (1.1 * rows(500, 64, seed=2) + 0.2).to(dtype)
        theirs = fid_statistics_to_metric(*map(fid_features_to_statistics, (a, b)), verbose=False)
        distance = frechet_distance(Moments.of(a), Moments.of(b))
        assert distance == pytest.approx(theirs["frechet_inception_distance"], rel=rel)

    def test_diagonal_closed_form(self) -> None:
        """Independent features: the squared differences of means and of deviations, zero deviations too."""
        mean = torch.tensor([1.0, -2.0, 0.5, 0.0], dtype=torch.float64)
        a, b = torch.tensor([[2.0, 1.0, 0.0, 0.0], [3.0, 1.0, 5.0, 0.0]], dtype=torch.float64)
        zero = torch.zeros(4, dtype=torch.float64)
        distance = frechet_distance(
            Moments(11, zero, 10 * a.square().diag()), Moments(21, mean, 20 * b.square().diag())
        )
        assert distance == pytest.approx((mean.square().sum() + (a - b).square().sum()).item(), rel=1e-14)

    @pytest.mark.parametrize(("count_a", "count_b"), [(20, 30), (20, 400), (400, 20), (2, 2)])
    def test_fewer_images_than_features(self, count_a: int, count_b: int) -> None:
        """Singular covariances: tr (S_a S_b)^(1/2) is the nuclear norm of the centred cross Gram matrix."""
        a, b = rows(count_a, 64, seed=1), 1.5 * rows(count_b, 64, seed=2)
        cross = (a - a.mean(0)) @ (b - b.mean(0)).T / ((count_a - 1) * (count_b - 1)) ** 0.5
        moments_a, moments_b = Moments.of(a), Moments.of(b)
        expected = (
            (a.mean(0) - b.mean(0)).square().sum()
            + moments_a.covariance().trace()
            + moments_b.covariance().trace()
            - 2 * torch.linalg.matrix_norm(cross, "nuc")
        )
        assert frechet_distance(moments_a, moments_b) == pytest.approx(expected.item(), rel=1e-12)

    def test_fewer_images_than_features_against_sqrtm(self) -> None:
        # Looser: the square root of a singular product costs sqrtm itself half of its digits.
        a, b = rows(20, 64, seed=1), 1.5 * rows(30, 64, seed=2)
        distance = frechet_distance(Moments.of(a), Moments.of(b))
        assert distance == pytest.approx(sqrtm_distance(a.numpy(), b.numpy()), rel=1e-5)

    @pytest.mark.parametrize("count", [10, 1000])
    @pytest.mark.parametrize("decades", [0, 8])
    def test_a_set_from_itself(self, count: int, decades: int) -> None:
        features = rows(count, 32, seed=4) * torch.logspace(0, -decades, 32, dtype=torch.float64) + 7
        moments, same = Moments.of(features), Moments.of(features.flip(0))
        trace = moments.covariance().trace().item()
        assert 0 <= frechet_distance(moments, moments) <= 1e-9 * trace
        assert 0 <= frechet_distance(moments, same) <= 1e-9 * trace

    def test_constant_features(self) -> None:
        zeros, ones = torch.zeros(5, 3), torch.ones(5, 3)
        assert frechet_distance(Moments.of(zeros), Moments.of(ones)) == 3.0
        assert frechet_distance(Moments.of(zeros), Moments.of(zeros)) == 0.0

    @settings(deadline=None, max_examples=60)
    @given(
        counts=st.tuples(st.integers(2, 12), st.integers(2, 12)),
        scale=st.floats(1e-30, 1e30),
        offset=st.floats(-1e30, 1e30),
        seed=st.integers(0, 100),
    )
    def test_never_negative_or_nan(
        self, counts: tuple[int, int], scale: float, offset: float, seed: int
    ) -> None:
        a, b = rows(counts[0], 6, seed), scale * rows(counts[1], 6, seed + 1) + offset
        distance = frechet_distance(Moments.of(a), Moments.of(b))
        assert np.isfinite(distance)
        assert distance >= 0

    @pytest.mark.parametrize("bad", [float("nan"), float("inf")])
    def test_non_finite_features_are_refused(self, bad: float) -> None:
        features = rows(10, 3)
        features[4, 1] = bad
        for pair in ((features, rows(10, 3)), (rows(10, 3), features)):
            with pytest.raises(DataError, match="not all finite"):
                frechet_distance(*map(Moments.of, pair))

    def test_dimensions_and_counts_are_checked(self) -> None:
        with pytest.raises(DataError, match="3 features with 4"):
            frechet_distance(Moments.of(rows(9, 3)), Moments.of(rows(9, 4)))
        with pytest.raises(DataError, match="at least 2 images"):
            frechet_distance(Moments.of(rows(9, 3)), Moments.of(rows(1, 3)))

    @pytest.mark.parametrize("count", [1000, pytest.param(3000, marks=pytest.mark.soak)])
    def test_full_size(self, count: int) -> None:
        """At FID's 2,048 features, with a spectrum of eight decades, below full rank and at it."""
        features = rows(count, 2048, seed=4) * torch.logspace(0, -4, 2048, dtype=torch.float64) + 7
        moments, same = Moments.of(features), Moments.of(features.flip(0))
        assert frechet_distance(moments, same) <= 1e-9 * moments.covariance().trace().item()


class TestSubsets:
    def collected(self, members: torch.Tensor, features: torch.Tensor) -> Subsets:
        """Collect the subsets from two workers, of which each has seen every other batch."""
        workers = [Subsets(members, features.shape[1], torch.device("cpu")) for _ in range(2)]
        for number, indices in enumerate(torch.arange(len(features)).split(70)):
            workers[number % 2].update(indices, features[indices])
        workers[0].merge(workers[1])
        return workers[0]

    def test_the_rest_of_a_set_is_the_set_without_a_part(self) -> None:
        features = rows(500, 20, offset=1e3)
        check(Moments.of(features).without(Moments.of(features[300:])), features[:300], rtol=1e-9)

    def test_halves_are_as_far_apart_as_halves_that_are_taken_apart(self) -> None:
        features, members = rows(401, 512), halves(401, 512)
        assert members is not None
        assert members.sum(1).tolist() == [200] * 4
        apart = [
            frechet_distance(Moments.of(features[half]), Moments.of(features[~half])) for half in members
        ]
        found = halves_distance(Moments.of(features), self.collected(members, features))
        assert found == pytest.approx(sum(apart) / 4, rel=1e-6)
        assert halves(3, 512) is None

    def test_the_noise_of_a_distance_is_that_of_drawing_again(self) -> None:
        """Mean of the jackknife over 60 draws, against the deviation of their distances (known to 9 %)."""
        real, distances, found = Moments.of(rows(5000, 6)), [], []
        for seed in range(60):
            drawn = (
                1.2 * rows(5000, 6)[torch.randperm(5000, generator=torch.Generator().manual_seed(seed))[:400]]
            )
            distances.append(frechet_distance(Moments.of(drawn), real))
            parts = self.collected(groups(400), drawn)
            found.append(distance_noise(distances[-1], Moments.of(drawn), parts, real))
        assert np.mean(found) == pytest.approx(np.std(distances) / np.mean(distances), rel=0.3)


class TestExtrapolation:
    def test_a_bias_of_one_over_n_is_taken_off(self) -> None:
        counts = [1000, 2000, 5000, 10_000]
        assert extrapolate(counts, [3 + 400 / n for n in counts]) == pytest.approx(3, rel=1e-12)

    def test_gaussians_of_known_distance(self) -> None:
        """Features of equal distributions: the distance is 0, and all that is measured is bias."""
        real = Moments.of(rows(20_000, 16, seed=1))
        counts = [200, 400, 800, 1600]
        features = rows(1600, 16, seed=1)[torch.randperm(1600, generator=torch.Generator().manual_seed(0))]
        distances = [frechet_distance(Moments.of(features[:n]), real) for n in counts]
        assert distances == sorted(distances, reverse=True)
        assert abs(extrapolate(counts, distances)) < 0.2 * distances[-1]

    def test_one_count_is_not_enough(self) -> None:
        with pytest.raises(ValueError, match="two counts or more"):
            extrapolate([5, 5], [1.0, 2.0])


def test_fewer_images_than_features_are_warned_of() -> None:
    assert bias_warning(2048, 2048) is None
    assert "2047 images are fewer than the extractor's 2048 features" in str(bias_warning(2047, 2048))
