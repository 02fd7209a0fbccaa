"""The Kernel Inception Distance: its definition, torch-fidelity's numbers, and no bias."""

from __future__ import annotations

from itertools import permutations, product

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch_fidelity.metric_kid import kid_features_to_metric

from gan_dist.core.errors import DataError
from gan_dist.evaluation.metrics.distances import kid

pytestmark = pytest.mark.usefixtures("no_network")


def features(count: int, dim: int, seed: int = 0, offset: float = 0.0) -> torch.Tensor:
    """Gaussian features float32 (count, dim) of deviation 1 about `offset`."""
    return torch.randn(count, dim, generator=torch.Generator().manual_seed(seed)) + offset


def kernel(x: npt.NDArray[np.float64], y: npt.NDArray[np.float64]) -> float:
    return float((x @ y / len(x) + 1) ** 3)


def plain(real: torch.Tensor, generated: torch.Tensor, subsets: int, size: int) -> list[float]:
    """The slow reference: the definition, pair by pair."""
    random = np.random.RandomState(2020)
    values = []
    for _ in range(subsets):
        y = generated.double().numpy()[random.choice(len(generated), size, replace=False)]
        x = real.double().numpy()[random.choice(len(real), size, replace=False)]
        within = [kernel(each[i], each[j]) for each in (x, y) for i, j in permutations(range(size), 2)]
        between = [kernel(a, b) for a, b in product(x, y)]
        values.append(float(2 * np.mean(within) - 2 * np.mean(between)))
    return values


def fidelity(real: torch.Tensor, generated: torch.Tensor, subsets: int, size: int) -> tuple[float, float]:
    """Return torch-fidelity's mean and deviation; in float64, for in float32 it keeps four digits."""
    found = kid_features_to_metric(
        generated.double(), real.double(), kid_subsets=subsets, kid_subset_size=size, verbose=False
    )
    return found["kernel_inception_distance_mean"], found["kernel_inception_distance_std"]


def test_the_definition() -> None:
    real, generated = features(14, 5), features(17, 5, seed=1, offset=0.5)
    values = plain(real, generated, 4, 6)
    found = kid(real, generated, subsets=4, subset_size=6)
    assert found.tolist() == pytest.approx(values, rel=1e-10)
    assert found.mean().item() == pytest.approx(np.mean(values), rel=1e-12)


@pytest.mark.parametrize("offset", [0.0, 30.0])
def test_the_numbers_of_torch_fidelity(offset: float) -> None:
    real, generated = features(300, 32, offset=offset), 1.1 * features(250, 32, seed=1, offset=offset)
    found = kid(real, generated, subsets=20, subset_size=100)
    mean, std = fidelity(real, generated, 20, 100)
    assert found.mean().item() == pytest.approx(mean, rel=1e-9)
    assert found.std(correction=0).item() == pytest.approx(std, rel=1e-7)
    # The two sets are not interchangeable: the order of draws is part of the number.
    assert fidelity(generated, real, 20, 100)[0] != pytest.approx(mean, rel=1e-6)


@pytest.mark.parametrize(("count_real", "count_generated"), [(40, 70), (70, 40), (40, 40)])
def test_few_images_lower_the_size_of_subsets(count_real: int, count_generated: int) -> None:
    real, generated = features(count_real, 8), features(count_generated, 8, seed=1)
    found = kid(real, generated, subsets=5)
    assert len(found) == 5
    assert found.mean().item() == pytest.approx(fidelity(real, generated, 5, 40)[0], rel=1e-9)


def test_constant_features_in_closed_form() -> None:
    found = kid(torch.full((5, 3), 2.0), torch.full((7, 3), -1.0), subsets=3)
    assert found.tolist() == [5.0**3 + 2.0**3 - 2 * (-1.0) ** 3] * 3


def test_no_bias() -> None:
    """Of equally distributed sets the expectation is 0; a biased estimate would be 36 deviations above it."""
    values = torch.tensor(
        [
            kid(features(8, 4, seed=seed), features(8, 4, seed=seed + 1), subsets=1).item()
            for seed in range(0, 800, 2)
        ]
    )
    assert abs(values.mean()) < 4 * values.std() / len(values) ** 0.5


def test_farther_is_larger() -> None:
    real = features(200, 16)
    near, far = (
        kid(real, features(200, 16, seed=1, offset=offset), subsets=5).mean() for offset in (0.2, 1.0)
    )
    assert abs(kid(real, features(200, 16, seed=1), subsets=5).mean()) < near / 5 < far / 25


def test_bad_sets_are_refused() -> None:
    with pytest.raises(
        DataError, match="at least 2 images of each kind, and there are 9 real and 1 generated"
    ):
        kid(features(9, 3), features(1, 3))
    with pytest.raises(DataError, match="3 features with 4"):
        kid(features(9, 3), features(9, 4))
    bad = features(9, 3)
    bad[4, 1] = torch.nan
    for pair in ((bad, features(9, 3)), (features(9, 3), bad)):
        with pytest.raises(DataError, match="9 images are not all finite"):
            kid(*pair)
    with pytest.raises(ValueError, match=r"\(9,\)"):
        kid(features(9, 3), torch.zeros(9))
    for subsets, size in ((0, 10), (1, 1)):
        with pytest.raises(ValueError, match=f"{subsets} subsets of {size} rows"):
            kid(features(9, 3), features(9, 3), subsets, size)
