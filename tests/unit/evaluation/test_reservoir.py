"""The features that are kept: the same rows, once each, however they come."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.distributed as dist
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_dist.core import rng
from gan_dist.core.errors import DataError
from gan_dist.evaluation.statistics import Reservoir
from tests.support.gloo import run_gloo

pytestmark = pytest.mark.usefixtures("no_network")

DIM = 3


def rows(count: int) -> torch.Tensor:
    return torch.randn(count, DIM, generator=torch.Generator().manual_seed(count))


@settings(deadline=None, max_examples=80)
@given(data=st.data(), count=st.integers(1, 60), size=st.integers(1, 70), merged=st.booleans())
def test_any_order_and_batches(data: st.DataObject, count: int, size: int, merged: bool) -> None:
    order = torch.tensor(data.draw(st.permutations(range(count))))
    cuts = sorted(data.draw(st.lists(st.integers(0, count), max_size=5)))
    features = rows(count)
    reservoir, other = (Reservoir(count, size, DIM) for _ in range(2))
    for index, (start, stop) in enumerate(pairwise([0, *cuts, count])):
        batch = order[start:stop]
        (other if merged and index % 2 else reservoir).update(batch, features[batch])
    reservoir.merge(other)
    chosen = sorted(rng.permutation(count, 0, "reservoir")[:size].tolist())
    assert reservoir.indices.tolist() == chosen
    assert torch.equal(reservoir.features, features[chosen])


def test_all_are_kept_where_there_are_not_more() -> None:
    for size in (9, 10, 1000):
        reservoir = Reservoir(9, size, DIM)
        reservoir.update(torch.arange(9), rows(9))
        assert reservoir.indices.tolist() == [*range(9)]
        assert torch.equal(reservoir.features, rows(9))


def test_the_choice_never_changes() -> None:
    assert Reservoir(100, 6, DIM).indices.tolist() == CHOICE


def test_features_of_another_type_are_kept_as_float32() -> None:
    reservoir = Reservoir(9, 4, DIM)
    reservoir.update(torch.arange(9), rows(9).double().requires_grad_())
    assert reservoir.features.dtype == torch.float32
    assert not reservoir.features.requires_grad


def on_a_rank(counts: list[int]) -> tuple[list[int], list[list[float]]]:
    """On a rank: its share of the rows, gathered from all ranks."""
    features = rows(sum(counts))
    reservoir = Reservoir(len(features), 20, DIM)
    mine = torch.randperm(len(features), generator=torch.Generator().manual_seed(0)).split(counts)
    for batch in mine[dist.get_rank()].split(16):
        reservoir.update(batch, features[batch])
    reservoir.all_reduce()
    return reservoir.indices.tolist(), reservoir.features.tolist()


AT_LENGTH = [pytest.param(counts, marks=pytest.mark.soak) for counts in ([90], [40, 50])]


@pytest.mark.parametrize("counts", [[50, 0, 40], *AT_LENGTH], ids=str)
def test_ranks_equal_one_process(counts: list[int]) -> None:
    chosen = Reservoir(90, 20, DIM).indices.tolist()
    for indices, features in run_gloo(on_a_rank, len(counts), counts):
        assert indices == chosen
        assert features == rows(90)[chosen].tolist()


def same_rows_on_all_ranks() -> str:
    reservoir = Reservoir(9, 4, DIM)
    reservoir.update(torch.arange(9), rows(9))
    with pytest.raises(DataError) as caught:
        reservoir.all_reduce()
    return str(caught.value)


def test_a_row_given_twice_is_refused() -> None:
    for message in run_gloo(same_rows_on_all_ranks, 2):
        assert message.startswith("4 of 4 images to keep were not given once")
    reservoir, other = Reservoir(9, 4, DIM), Reservoir(9, 4, DIM)
    reservoir.update(torch.arange(9), rows(9))
    other.update(reservoir.indices[2:3], rows(9)[:1])
    reservoir.merge(other)
    with pytest.raises(DataError, match=rf"1 of 4 .* number {reservoir.indices[2]} came 2 times"):
        reservoir.features  # noqa: B018


def test_a_row_that_never_came_is_refused() -> None:
    reservoir = Reservoir(9, 4, DIM)
    absent = int(reservoir.indices[1])
    given = torch.tensor([number for number in range(9) if number != absent])
    reservoir.update(given, rows(9)[given])
    for read in (reservoir.all_reduce, lambda: reservoir.features):
        with pytest.raises(DataError, match=f"1 of 4 .* number {absent} came 0 times"):
            read()


def test_bad_arguments_are_refused() -> None:
    for count, size in ((0, 5), (5, 0)):
        with pytest.raises(ValueError, match=f"{size} of {count} rows"):
            Reservoir(count, size, DIM)
    reservoir = Reservoir(9, 4, DIM)
    with pytest.raises(ValueError, match=r"not in 0\.\.8"):
        reservoir.update(torch.tensor([9]), rows(1))
    with pytest.raises(ValueError, match=r"\(2, 2\)"):
        reservoir.update(torch.arange(2), rows(2)[:, 1:])
    with pytest.raises(ValueError, match="different rows"):
        reservoir.merge(Reservoir(9, 3, DIM))


CHOICE = [3, 29, 56, 87, 91, 97]
