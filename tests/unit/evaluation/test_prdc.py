"""Precision, recall, density and coverage, against exact whole numbers and torch-fidelity."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch_fidelity.metric_prc import prc_features_to_metric

from gan_dist.core.errors import DataError
from gan_dist.evaluation.metrics import prdc
from gan_dist.evaluation.metrics.prdc import (
    DensityCoverage,
    PrecisionRecall,
    density_coverage,
    precision_recall,
)

pytestmark = pytest.mark.usefixtures("no_network")

Points = npt.NDArray[np.int64]


def features(count: int, dim: int, seed: int = 0, offset: float = 0.0) -> torch.Tensor:
    """Gaussian features float32 (count, dim) of deviation 1 about `offset`."""
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + offset


def squares(x: Points, y: Points) -> Points:
    result: Points = ((x[:, None] - y[None]) ** 2).sum(2)
    return result


def radii(x: Points, neighbours: int) -> Points:
    """Squared distances to the k-th nearest other row, each row's own left out by its place."""
    others = [np.delete(row, place) for place, row in enumerate(squares(x, x))]
    return np.array([np.sort(row)[neighbours - 1] for row in others])


def plain(real: Points, generated: Points, neighbours: int) -> tuple[PrecisionRecall, DensityCoverage]:
    """The slow reference: the definitions, in whole numbers, where nothing is rounded."""
    between, real_radii, generated_radii = (
        squares(real, generated),
        radii(real, neighbours),
        radii(generated, neighbours),
    )
    precise = [any(column <= real_radii) for column in between.T]
    recalled = [any(row <= generated_radii) for row in between]
    inside = between < real_radii[:, None]
    return (
        PrecisionRecall(float(np.mean(precise)), float(np.mean(recalled))),
        DensityCoverage(inside.sum() / (neighbours * len(generated)), float(inside.any(1).mean())),
    )


def points(dim: int) -> st.SearchStrategy[Points]:
    """Between 4 and 14 points of a grid, so that many are equal, or equally far from each other."""
    row = st.tuples(*[st.integers(-2, 2)] * dim)
    return st.lists(row, min_size=4, max_size=14).map(lambda rows: np.array(rows).reshape(-1, dim))


@settings(deadline=None, max_examples=150)
@given(
    sets=st.integers(1, 3).flatmap(lambda dim: st.tuples(points(dim), points(dim))),
    neighbours=st.integers(1, 3),
    scale=st.sampled_from([1.0, 0.1, 1e-6, 3e4]),
    offset=st.sampled_from([0.0, 1.0, 1000.0]),
)
def test_the_definitions_with_many_ties(
    sets: tuple[Points, Points], neighbours: int, scale: float, offset: float
) -> None:
    """Equal distances are taken as equal, though the arithmetic rounds them."""
    real, generated = (scale * (torch.from_numpy(each).double() + offset) for each in sets)
    expected = plain(*sets, neighbours)
    found = precision_recall(real, generated, neighbours), density_coverage(real, generated, neighbours)
    for each, right in zip(found, expected, strict=True):
        assert vars(each) == pytest.approx(vars(right), rel=1e-12)


@pytest.mark.parametrize("neighbours", [1, 3])
def test_the_numbers_of_torch_fidelity(neighbours: int) -> None:
    real, generated = features(300, 6), 0.8 * features(240, 6, seed=1) + 0.3
    found = precision_recall(real, generated, neighbours)
    expected = prc_features_to_metric(
        generated.double(), real.double(), prc_neighborhood=neighbours, save_cpu_ram=False, verbose=False
    )
    assert 0.2 < found.recall < found.precision < 0.98
    # torch-fidelity takes the means in float32.
    assert found.precision == pytest.approx(expected["precision"], abs=1e-6)
    assert found.recall == pytest.approx(expected["recall"], abs=1e-6)


def test_blocks_of_rows_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = features(61, 4), 0.8 * features(50, 4, seed=1)
    whole = precision_recall(real, generated), density_coverage(real, generated)
    blocks = len([*prdc._squared_distances(real.double(), generated.double())])
    monkeypatch.setattr(prdc, "_PAIRS", 7 * 50)
    assert blocks == 1
    assert len([*prdc._squared_distances(real.double(), generated.double())]) == 9
    assert (precision_recall(real, generated), density_coverage(real, generated)) == whole


def test_rounding_is_far_below_its_bound() -> None:
    rows = features(200, 512, offset=1.0).double()
    exact = torch.cdist(rows, rows, compute_mode="donot_use_mm_for_euclid_dist").square()
    for block, found, bound in prdc._squared_distances(rows, rows):
        assert ((found - exact[block]).abs() < bound / 100).all()


def test_features_far_from_zero() -> None:
    """Steps of 2^-6 at 2^16: exact in float32, and about 0 the distances would be below the rounding."""
    real, generated = ((64 * features(80, 3, seed=seed)).round() / 64 for seed in (0, 1))
    assert precision_recall(real + 2**16, generated + 2**16) == precision_recall(real, generated)
    assert density_coverage(real + 2**16, generated + 2**16) == density_coverage(real, generated)


def test_a_generator_that_returns_the_real_images() -> None:
    real = features(200, 16)
    assert precision_recall(real, real.flip(0)) == PrecisionRecall(1.0, 1.0)
    assert density_coverage(real, real.flip(0)) == DensityCoverage(1.0, 1.0)


def test_images_unlike_all_real_ones() -> None:
    real, generated = features(100, 4), features(100, 4, seed=1, offset=50)
    assert precision_recall(real, generated) == PrecisionRecall(0.0, 0.0)
    assert density_coverage(real, generated) == DensityCoverage(0.0, 0.0)


def test_an_ideal_generator() -> None:
    """Expected: a density of 1 and a coverage of 1 - 2^-k."""
    found = density_coverage(features(1500, 4), features(1500, 4, seed=1), neighbours=3)
    assert found.density == pytest.approx(1, abs=0.05)
    assert found.coverage == pytest.approx(1 - 2**-3, abs=0.03)


def test_one_image_again_and_again() -> None:
    real = features(100, 4)
    generated = real[:1].expand(50, 4)
    assert precision_recall(real, generated) == PrecisionRecall(1.0, 0.01)
    assert density_coverage(real, generated).coverage < 0.15


def test_features_are_not_changed() -> None:
    real, generated = features(20, 3), features(20, 3, seed=1)
    before = real.clone(), generated.clone()
    precision_recall(real, generated)
    density_coverage(real, generated)
    assert torch.equal(real, before[0])
    assert torch.equal(generated, before[1])


def test_bad_sets_are_refused() -> None:
    for score, neighbours in ((precision_recall, 3), (density_coverage, 5)):
        score(features(neighbours + 1, 2), features(neighbours + 1, 2))
        with pytest.raises(DataError, match=f"at least {neighbours + 1} images of each kind"):
            score(features(neighbours, 2), features(9, 2))
        with pytest.raises(DataError, match=f"9 real and {neighbours} generated"):
            score(features(9, 2), features(neighbours, 2))
        with pytest.raises(DataError, match="2 features with 3"):
            score(features(9, 2), features(9, 3))
        with pytest.raises(DataError, match="not all finite"):
            score(features(9, 2), features(9, 2) / 0)
        with pytest.raises(ValueError, match="0 nearest neighbours"):
            score(features(9, 2), features(9, 2), neighbours=0)
