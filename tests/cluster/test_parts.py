"""A release measured by Ray's actors: the figures of one process, to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
from ray.cluster_utils import Cluster

from gan_dist.cluster.evaluation_pool import ray_workers
from gan_dist.config import ScaleConfig
from gan_dist.core.errors import CapacityError, DataError, WorkerError
from gan_dist.evaluation.assess import assess
from gan_dist.evaluation.tasks import MeasureReal, run_here
from tests.cluster.conftest import AddNode
from tests.support.parts import Deadly, Exhausting, Held, Numbered, let_go
from tests.support.releases import request_of, untrained

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.usefixtures("local_ray")]

ALL = ("kid", "is", "pr", "dc", "memorisation")


def test_processes_find_what_one_process_finds_and_a_killed_one_is_replaced(tmp_path: Path) -> None:
    request = replace(request_of(untrained(tmp_path), ALL), samples=1500)
    # One thread in all of them, as a process of one CPU has.
    import torch

    torch.set_num_threads(1)
    alone = assess(request, run_here)
    parts = [Numbered(number, tmp_path) for number in range(24)]
    with ray_workers(ScaleConfig(workers=2)) as workers:
        together = assess(request, workers)
        found = cast("list[tuple[int, int]]", [*workers(request, parts[:12]), *workers(request, parts[12:])])
        let_go(tmp_path, 2)  # who does one holds it until somebody else does the other
        assert list(workers(request, [Held(0, tmp_path), Held(1, tmp_path)])) == [0, 1]
    assert together.figures == alone.figures
    assert alone.nearest is not None
    assert together.nearest is not None
    assert together.nearest.tobytes() == alone.nearest.tobytes()
    assert [number for number, _ in found] == list(range(24))
    assert len({pid for _, pid in found}) <= 3


def test_errors_of_a_process_are_told_as_they_are_and_one_does_all_where_there_is_room_for_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gan_dist.cluster.evaluation_pool.RETRIES", 1)  # each takes seconds
    shapes = "builtin://shapes?count=64&resolution=8"
    request = request_of(untrained(tmp_path), data=shapes)
    parts = [Numbered(number, tmp_path) for number in range(4, 10)]
    with ray_workers(ScaleConfig(workers=2, cpus_per_worker=1.5)) as workers:
        found = cast("list[tuple[int, int]]", list(workers(request, parts)))
        with pytest.raises(DataError, match="have 3 channels and the generator's have 1"):
            list(workers(request, [MeasureReal(range(1), 64)]))
        exhausted = request_of(request.source, ("pr",))
        advice = r"2\.00 GiB.* use fewer of --metrics fid,pr, --samples below 600"
        with pytest.raises(CapacityError, match=advice):
            list(workers(exhausted, [Exhausting(tmp_path)]))
        lost = "a part of the evaluation was lost 2 times, with whoever did it"
        with pytest.raises(WorkerError, match=lost):
            list(workers(request, [Deadly()]))
    assert [number for number, _ in found] == list(range(4, 10))
    assert len({pid for _, pid in found}) == 1
    # What does not fit into memory is not tried again.
    assert (tmp_path / "tried").read_text() == "x"


@pytest.mark.usefixtures("a_busy_cpu")
def test_what_was_lost_with_a_node_is_done_by_those_that_are_left(
    tmp_path: Path, cluster: Cluster, add_node: AddNode
) -> None:
    other = add_node(num_cpus=1)
    let_go(tmp_path, 2, lambda: cluster.remove_node(other, allow_graceful=False))
    parts = [Held(number, tmp_path) for number in range(8)]
    with ray_workers(ScaleConfig(workers=2)) as workers:
        assert list(workers(request_of(untrained(tmp_path)), parts)) == list(range(8))
