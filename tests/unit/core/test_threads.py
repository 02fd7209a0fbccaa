"""Work that is done ahead in threads: in order, bounded, and with its errors."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from gan_dist.core.threads import map_ahead, prefetch


def test_the_next_value_is_made_while_the_last_is_used() -> None:
    made: list[int] = []

    def values() -> Iterator[int]:
        for number in range(5):
            made.append(number)
            yield number

    used = []
    for number in prefetch(values()):
        deadline = time.monotonic() + 10
        while len(made) < min(number + 2, 5) and time.monotonic() < deadline:
            time.sleep(0.001)
        # One, and no more.
        assert made == list(range(min(number + 2, 5)))
        used.append(number)
    assert used == list(range(5))


def test_an_error_comes_where_its_value_would_have() -> None:
    def values() -> Iterator[int]:
        yield 1
        raise OSError("gone")

    coming = prefetch(values())
    assert next(coming) == 1
    with pytest.raises(OSError, match="gone"):
        next(coming)


def test_who_has_had_enough_does_not_wait() -> None:
    release = threading.Event()

    def values() -> Iterator[int]:
        yield 1
        release.wait(60)
        yield 2

    coming = prefetch(values())
    assert next(coming) == 1
    began = time.monotonic()
    coming.close()  # type: ignore[attr-defined]  # it is a generator
    assert time.monotonic() - began < 30
    release.set()


@pytest.mark.parametrize("threads", [1, 3])
def test_a_mapping_keeps_the_order_and_its_distance(threads: int) -> None:
    taken: list[int] = []

    def values() -> Iterator[int]:
        for number in range(50):
            taken.append(number)
            yield number

    def slower_at_first(number: int) -> int:
        time.sleep(0.002 * (number % 3))
        return number * number

    with ExitStack() as stack:
        for place, square in enumerate(map_ahead(stack, slower_at_first, values(), threads)):
            assert square == place * place
            assert len(taken) <= place + 2 * threads
    assert len(taken) == 50
