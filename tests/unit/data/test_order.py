"""The order of images: exactly once an epoch, the same for any number of workers, resumable anywhere."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from gan_dist.core import rng
from gan_dist.data.order import Order, Window, choose_streams

GroupRows = tuple[int, ...]
Row = tuple[int, int]
"""A group and a row of it."""


@dataclass(frozen=True)
class Plan:
    """What an order is made of."""

    groups: GroupRows
    batch: int
    seed: int = 0
    streams: int | None = None
    window: int = 16384

    def order(self) -> Order:
        return Order(
            self.groups, seed=self.seed, batch_size=self.batch, streams=self.streams, window=self.window
        )

    @property
    def count(self) -> int:
        return sum(self.groups)

    def batches_of(self, epochs: float) -> int:
        """Slots of whole batches that hold at least so many epochs."""
        return -(-int(self.count * epochs) // self.batch) * self.batch


def divisors(number: int) -> list[int]:
    return [divisor for divisor in range(1, number + 1) if number % divisor == 0]


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    groups = draw(st.lists(st.integers(1, 50), min_size=1, max_size=60))
    return Plan(
        groups=tuple(groups),
        batch=draw(st.sampled_from([1, 2, 3, 4, 6, 7, 8, 12, 16, 24, 30, 32, 64, 96])),
        seed=draw(st.integers(0, 2**40)),
        streams=draw(st.none() | st.integers(1, 40)),
        window=draw(st.sampled_from([1, 5, 40, 300, 16384])),
    )


@st.composite
def plans_of_many_batches(draw: st.DrawFn) -> tuple[Plan, int]:
    """A plan, and how many batches (from 2) the slots to look at hold."""
    plan = draw(plans())
    return plan, max(2, plan.batches_of(2.2) // plan.batch)


def window_rows(window: Window) -> list[Row]:
    laid = [(one.group, row) for one in window.slices for row in range(one.start, one.stop)]
    return [laid[index] for index in window.permutation()]


def rank_slots(order: Order, slot: int, rank: int, world_size: int) -> list[tuple[int, int]]:
    """Stream and position of a rank's part of the batch that begins at a slot."""
    slots = sorted(range(slot, slot + order.batch_size), key=lambda slot: slot % order.streams)
    size = order.batch_size // world_size
    return [(slot % order.streams, slot // order.streams) for slot in slots[rank * size : (rank + 1) * size]]


def shown(order: Order, rank: int, world_size: int, start: int, stop: int) -> list[list[Row]]:
    """What one rank shows, batch by batch, from nothing but the windows of the streams it asks for."""
    at: dict[tuple[int, int], Row] = {}
    for window in order.windows(order.rank_streams(rank, world_size), start, stop):
        at.update({(window.stream, window.start + i): row for i, row in enumerate(window_rows(window))})
    return [
        [at[place] for place in rank_slots(order, slot, rank, world_size)]
        for slot in range(start, stop, order.batch_size)
    ]


def global_batches(order: Order, world_size: int, start: int, stop: int) -> list[list[Row]]:
    ranks = [shown(order, rank, world_size, start, stop) for rank in range(world_size)]
    return [list(itertools.chain(*parts)) for parts in zip(*ranks, strict=True)]


def reference(plan: Plan, stop: int) -> list[Row]:
    """The row of every slot below `stop`, slot by slot from the definition, without any arithmetic."""
    streams = plan.streams or choose_streams(len(plan.groups))
    stream_window = max(1, plan.window // streams)
    rows: dict[int, Row] = {}
    seen = [0] * streams
    for epoch in range(-(-stop // plan.count)):
        shuffled = rng.permutation(len(plan.groups), plan.seed, "epoch", epoch)
        laid = [(int(group), row) for group in shuffled for row in range(plan.groups[group])]
        slots: list[list[int]] = [[] for _ in range(streams)]
        for slot in range(epoch * plan.count, (epoch + 1) * plan.count):
            slots[slot % streams].append(slot)
        for stream in range(streams):
            segment, laid = laid[: len(slots[stream])], laid[len(slots[stream]) :]
            window: list[Row] = []
            for index, row in enumerate(segment):
                window.append(row)
                is_last = index + 1 == len(segment)
                if is_last or (segment[index + 1][0] != row[0] and len(window) >= stream_window):
                    order = rng.permutation(
                        len(window), plan.seed, "window", stream, seen[stream] + index + 1 - len(window)
                    )
                    first = index + 1 - len(window)
                    rows.update({slots[stream][first + i]: window[k] for i, k in enumerate(order)})
                    window = []
            seen[stream] += len(segment)
    return [rows[slot] for slot in range(stop)]


def reference_batches(plan: Plan, stop: int) -> list[list[Row]]:
    streams = plan.streams or choose_streams(len(plan.groups))
    rows = reference(plan, stop)
    return [
        [rows[slot] for slot in sorted(range(begin, begin + plan.batch), key=lambda slot: slot % streams)]
        for begin in range(0, stop, plan.batch)
    ]


def by_slot(plan: Plan, batches: Sequence[Sequence[Row]]) -> list[Row]:
    """The rows of global batches in the order of their slots rather than streams."""
    streams = plan.order().streams
    rows: dict[int, Row] = {}
    for number, batch in enumerate(batches):
        first = number * plan.batch
        slots = sorted(range(first, first + plan.batch), key=lambda slot: slot % streams)
        rows.update(zip(slots, batch, strict=True))
    return [rows[slot] for slot in range(len(rows))]


@settings(max_examples=120, deadline=None)
@given(plan=plans(), choose=st.integers(0, 10**6))
def test_order_is_the_one_that_its_definition_gives(plan: Plan, choose: int) -> None:
    stop = plan.batches_of(2.2)
    worlds = divisors(plan.batch)
    world_size = worlds[choose % len(worlds)]
    assert global_batches(plan.order(), world_size, 0, stop) == reference_batches(plan, stop)


@settings(max_examples=100, deadline=None)
@given(plan=plans())
def test_every_epoch_shows_every_row_exactly_once(plan: Plan) -> None:
    rows = by_slot(plan, global_batches(plan.order(), 1, 0, plan.batches_of(3)))
    everything = sorted((group, row) for group, size in enumerate(plan.groups) for row in range(size))
    for epoch in range(3):
        assert sorted(rows[epoch * plan.count : (epoch + 1) * plan.count]) == everything


@pytest.mark.parametrize(
    "plan",
    [
        Plan((10, 10, 10, 7), batch=8, window=12),
        Plan((3, 2), batch=64),
        Plan((1,), batch=6, streams=4),
        Plan((2, 1), batch=4, streams=16),
        Plan((5,) * 9, batch=7, streams=7, window=1),
        Plan((50,) * 60, batch=96, streams=40, window=100),
    ],
    ids=["tail", "smaller-than-batch", "one-row", "fewer-rows-than-streams", "odd", "many"],
)
def test_tails_are_neither_dropped_nor_padded(plan: Plan) -> None:
    epochs = 5
    for world_size in divisors(plan.batch):
        rows = by_slot(plan, global_batches(plan.order(), world_size, 0, plan.batches_of(epochs)))
        for epoch in range(epochs):
            assert len(set(rows[epoch * plan.count : (epoch + 1) * plan.count])) == plan.count


@settings(max_examples=60, deadline=None)
@given(plan=plans())
def test_global_batches_are_the_same_for_every_number_of_workers(plan: Plan) -> None:
    # Some of these numbers divide the streams and some do not.
    stop = plan.batches_of(1.3)
    alone = global_batches(plan.order(), 1, 0, stop)
    for world_size in divisors(plan.batch)[1:8]:
        assert global_batches(plan.order(), world_size, 0, stop) == alone


@settings(max_examples=80, deadline=None)
@given(drawn=plans_of_many_batches(), where=st.floats(0, 1), choose=st.integers(0, 10**6))
def test_resuming_at_any_batch_goes_on_as_if_never_stopped(
    drawn: tuple[Plan, int], where: float, choose: int
) -> None:
    plan, count = drawn
    begin = min(int(where * count), count - 1)
    worlds = divisors(plan.batch)
    world_size = worlds[choose % len(worlds)]
    whole = global_batches(plan.order(), 1, 0, count * plan.batch)
    resumed = global_batches(plan.order(), world_size, begin * plan.batch, count * plan.batch)
    assert resumed == whole[begin:]


@settings(max_examples=20, deadline=None)
@given(
    drawn=plans_of_many_batches(),
    where=st.floats(0, 1),
    change=st.sampled_from([(4, 2), (2, 4), (3, 1), (1, 8)]),
)
def test_changing_the_number_of_workers_mid_epoch_changes_no_batch(
    drawn: tuple[Plan, int], where: float, change: tuple[int, int]
) -> None:
    plan, count = drawn
    plan = Plan(plan.groups, plan.batch * 24, plan.seed, plan.streams, plan.window)
    count = max(2, min(count, plan.batches_of(2.2) // plan.batch))
    turn, stop = max(1, int(where * (count - 1))) * plan.batch, count * plan.batch
    before, after = change
    changed = [
        *global_batches(plan.order(), before, 0, turn),
        *global_batches(plan.order(), after, turn, stop),
    ]
    assert changed == global_batches(plan.order(), 1, 0, stop)


@settings(max_examples=100, deadline=None)
@given(plan=plans(), far=st.integers(0, 10**9))
def test_a_rank_asks_for_exactly_the_streams_that_it_shows(plan: Plan, far: int) -> None:
    order = plan.order()
    # Twice the period of the division of batches among streams, from anywhere on the clock.
    first = far // plan.batch
    for world_size in divisors(plan.batch)[:6]:
        for rank in range(world_size):
            used = {
                stream
                for batch in range(first, first + 2 * order.streams)
                for stream, _ in rank_slots(order, batch * plan.batch, rank, world_size)
            }
            assert sorted(used) == order.rank_streams(rank, world_size)


@settings(max_examples=30, deadline=None)
@given(plan=plans(), far=st.integers(0, 10**9))
def test_where_a_windows_rows_are_shown_follows_from_what_batches_take(plan: Plan, far: int) -> None:
    order = plan.order()
    first = far // plan.batch
    start, stop = first * plan.batch, (first + 5) * plan.batch
    for world_size in divisors(plan.batch)[:6]:
        share = plan.batch // world_size
        for rank in range(world_size):
            taken = [
                place
                for slot in range(start, stop, plan.batch)
                for place in rank_slots(order, slot, rank, world_size)
            ]
            expected = {at: first * share + row for row, at in enumerate(taken)}
            found: dict[tuple[int, int], int] = {}
            for window in order.windows(range(order.streams), start, stop):
                for position, row in enumerate(order.rank_rows(window, rank, world_size), window.start):
                    if start <= position * order.streams + window.stream < stop and row >= 0:
                        found[window.stream, position] = int(row)
            assert found == expected


@settings(max_examples=60, deadline=None)
@given(
    world_size=st.integers(1, 6),
    streams_each=st.integers(1, 5),
    share=st.integers(1, 5),
    groups=st.lists(st.integers(1, 50), min_size=1, max_size=60),
)
def test_ranks_share_no_stream_where_workers_divide_streams_and_streams_the_batch(
    world_size: int, streams_each: int, share: int, groups: list[int]
) -> None:
    streams = world_size * streams_each
    order = Plan(tuple(groups), batch=streams * share, streams=streams).order()
    asked = [order.rank_streams(rank, world_size) for rank in range(world_size)]
    assert sorted(itertools.chain(*asked)) == list(range(streams))


@settings(max_examples=100, deadline=None)
@given(plan=plans(), span=st.tuples(st.integers(0, 9000), st.integers(1, 30) | st.integers(1, 3000)))
def test_windows_come_once_each_and_by_their_first_slot(plan: Plan, span: tuple[int, int]) -> None:
    order = plan.order()
    start, stop = span[0], sum(span)
    windows = list(order.windows(range(order.streams), start, stop))
    first_slots = [window.start * order.streams + window.stream for window in windows]
    assert first_slots == sorted(set(first_slots))
    covered: set[int] = set()
    for window in windows:
        slots = {window.stream + order.streams * at for at in range(window.start, window.stop)}
        assert slots & set(range(start, stop)), "a window that nobody needs"
        assert len(window) * order.streams <= 2 * order.window_slots + order.streams
        assert all(slot // plan.count == window.epoch for slot in slots)
        assert not slots & covered
        covered |= slots
    assert covered >= set(range(start, stop))


@settings(max_examples=100, deadline=None)
@given(plan=plans(), epoch=st.integers(0, 50))
def test_pieces_of_an_epoch_cover_the_set_without_overlap(plan: Plan, epoch: int) -> None:
    order = plan.order()
    windows = order.windows(range(order.streams), epoch * plan.count, (epoch + 1) * plan.count)
    slices = [one for window in windows for one in window.slices]
    rows = [(one.group, row) for one in slices for row in range(one.start, one.stop)]
    assert all(len(one) > 0 for one in slices)
    assert len(rows) == plan.count == len(set(rows))
    # A stream reads whole groups: only its segment's ends may cut one.
    assert len(slices) <= len(plan.groups) + order.streams - 1


def test_each_epoch_and_each_seed_has_an_order_of_its_own() -> None:
    orders = set()
    for seed in range(5):
        plan = Plan((100,) * 10, batch=50, seed=seed)
        rows = by_slot(plan, global_batches(plan.order(), 1, 0, 4 * plan.count))
        orders |= {tuple(rows[epoch * plan.count : (epoch + 1) * plan.count]) for epoch in range(4)}
        # No more rows stay where they were than the one that is expected of chance.
        kept = sum(a == b for a, b in zip(rows[: plan.count], rows[plan.count :], strict=False))
        assert kept < 10
    assert len(orders) == 20


def spearman(groups: GroupRows, seed: int, epochs: int, window: int = 16384) -> npt.NDArray[np.float64]:
    """Spearman's correlation of position and row index in each epoch."""
    order = Order(groups, seed=seed, batch_size=100, streams=None, window=window)
    begins = np.concatenate([[0], np.cumsum(groups)])
    result = []
    for epoch in range(epochs):
        rows = np.empty(order.count, dtype=np.int64)
        for window_ in order.windows(range(order.streams), epoch * order.count, (epoch + 1) * order.count):
            laid = [begins[one.group] + np.arange(one.start, one.stop) for one in window_.slices]
            slots = window_.stream + order.streams * np.arange(window_.start, window_.stop)
            rows[slots - epoch * order.count] = np.concatenate(laid)[window_.permutation()]
        assert len(np.unique(rows)) == order.count
        result.append(float(scipy.stats.spearmanr(np.arange(order.count), rows).statistic))
    return np.array(result)


@pytest.mark.parametrize("groups", [(1000,) * 10, (100,) * 100, (10_000,)], ids=["10", "100", "1"])
def test_position_tells_nothing_about_the_index_with_the_default_window(groups: GroupRows) -> None:
    # A uniform permutation of 10,000 has a correlation of standard deviation 0.01; the mean of 16 has 0.0025,
    # and 0.02 is 8 deviations of that: a sound order never fails this, whatever the seeds.
    epochs = np.stack([spearman(groups, seed, epochs=16) for seed in range(4)])
    assert np.abs(epochs.mean(1)).max() <= 0.02
    # A single epoch is as good as a uniform permutation: chi-square bounds of 99.99 % on 64 of them.
    spread = float((epochs**2).sum()) / 0.01**2
    low, high = scipy.stats.chi2.ppf([5e-5, 1 - 5e-5], epochs.size)
    assert low < spread < high
    # These seeds' first epochs lie within two deviations; of other seeds' one in twenty does not.
    assert np.abs(epochs[:, 0]).max() <= 0.02


def test_small_windows_mix_less_but_favour_no_end_of_the_set() -> None:
    # At any time 8 of 40 groups are open, so a single epoch's correlation is that of 40 shuffled blocks, of
    # standard deviation 1/sqrt(39) = 0.16; its mean over epochs and seeds is still 0.
    values = np.concatenate([spearman((250,) * 40, seed, epochs=8, window=512) for seed in range(8)])
    assert 0.1 < values.std() < 0.2
    assert abs(values.mean()) < 4 * values.std() / len(values) ** 0.5


@pytest.mark.parametrize(
    ("groups", "streams"),
    [(1, 1), (7, 1), (8, 2), (15, 2), (16, 4), (127, 16), (128, 32), (10**6, 32)],
)
def test_streams_are_a_power_of_two_with_four_groups_each(groups: int, streams: int) -> None:
    assert choose_streams(groups) == streams


# fmt: off
GOLDEN = [
    (5, 3), (5, 4), (8, 2), (8, 0), (1, 1), (4, 2), (4, 7), (4, 5), (4, 4), (4, 0),
    (1, 3), (5, 5), (5, 0), (8, 1), (5, 1), (7, 6), (7, 4), (7, 2), (7, 1), (7, 3),
]
GOLDEN_FAR = [(7, 7), (7, 5), (7, 0), (7, 6), (7, 1), (2, 2), (2, 0), (2, 1), (4, 6), (2, 3)]
# fmt: on


def test_the_order_never_changes() -> None:
    """Runs of older versions are resumed in the order they began with: these numbers are for ever."""
    plan = Plan((7, 5, 9, 1, 8, 6, 4, 10, 3), batch=10, seed=42, window=20)
    rows = list(itertools.chain(*global_batches(plan.order(), 2, 0, 20)))
    assert rows == GOLDEN
    # As far as no run gets; it takes no longer to get there.
    far = global_batches(plan.order(), 5, 10**12 * plan.batch, (10**12 + 1) * plan.batch)
    assert far == [GOLDEN_FAR]
