"""Sizes of images that doubling makes."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gan_dist.core.image_size import ImageSize
from gan_dist.models.sizes import NetworkSize, base_of, possible_sizes

EDGES = st.integers(1, 5000)


def is_possible(size: ImageSize) -> bool:
    """Whether edges that are halved together, once or more, come to 4 to 7 for the longer one: by trying."""
    edges, halved = list(size), 0
    while max(edges) > 7:
        if edges[0] % 2 or edges[1] % 2:
            return False
        edges, halved = [edge // 2 for edge in edges], halved + 1
    return max(edges) >= 4 and halved > 0


@given(height=EDGES, width=EDGES)
def test_a_size_is_its_base_doubled(height: int, width: int) -> None:
    size = ImageSize(height, width)
    base = base_of(size)
    assert (base is not None) == is_possible(size)
    if base is not None:
        network = NetworkSize(resolution=max(size), channels=1, width=1, oblong=size)
        assert tuple(edge << network.halvings for edge in base) == size
        assert network.base == base


@given(height=EDGES, width=EDGES)
def test_the_sizes_that_a_refusal_names_are_possible_and_near(height: int, width: int) -> None:
    size = ImageSize(height, width)
    found = possible_sizes(size)
    assert 1 <= len(found) <= 2
    assert all(map(is_possible, found))
    if is_possible(size):
        assert found == (size,)
    elif height == width:
        assert all(one.height == one.width for one in found)
        assert found[-1].height - height <= max(height / 4, 8)
    else:
        smallest = max(8 / max(size), 1)
        aspect = max(size) / min(size)
        worst = max(smallest, 5 / 4) * max(aspect / 7, 8 / 7 if aspect > 3 else 5 / 4) * 2
        assert all(max(a / b, b / a) <= worst for a, b in zip(size, found[0], strict=True))


@pytest.mark.parametrize(
    ("written", "possible"),
    [
        ("640x480", ["640x512", "512x384"]),
        ("480x640", ["512x640", "384x512"]),
        ("1920x1080", ["2048x1024", "1792x1024"]),
        ("100x50", ["96x48"]),
        ("65x64", ["64x64"]),
        ("1000x10", ["896x128"]),
        ("512x384", ["512x384"]),
        ("224x128", ["224x128"]),
    ],
)
def test_near_sizes(written: str, possible: list[str]) -> None:
    assert [str(one) for one in possible_sizes(ImageSize.of(written))] == possible


def test_the_nearest_is_the_nearest_of_all_small_sizes() -> None:
    every = [ImageSize(h, w) for h in range(1, 130) for w in range(1, 130) if is_possible(ImageSize(h, w))]

    def distance(one: ImageSize, other: ImageSize) -> float:
        return sum(abs(math.log(a / b)) for a, b in zip(one, other, strict=True))

    for size in (ImageSize(30, 20), ImageSize(9, 8), ImageSize(21, 63), ImageSize(40, 50)):
        nearest = min(distance(size, one) for one in every)
        assert distance(size, possible_sizes(size)[0]) == pytest.approx(nearest)
