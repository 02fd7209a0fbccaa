"""A release measured by Ray's tasks: the figures of one process, to the bit."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from gan_dist.cluster.parts import ray_workers
from gan_dist.config import ScaleConfig
from gan_dist.errors import DataError
from gan_dist.evaluation.assess import assess
from gan_dist.evaluation.work import here
from tests.releases import request_of, untrained

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]

ALL = ("kid", "is", "pr", "dc", "memorisation")


def test_tasks_find_what_one_process_finds(tmp_path: Path) -> None:
    request = replace(request_of(untrained(tmp_path), ALL), samples=1500)
    workers = ray_workers(ScaleConfig(workers=2))
    # One thread in all of them, as a task of one CPU has.
    import torch

    torch.set_num_threads(1)
    alone = assess(request, here, lambda *_: None)
    together = assess(request, workers, lambda *_: None)
    assert together.figures == alone.figures
    assert alone.nearest is not None
    assert together.nearest is not None
    assert together.nearest.tobytes() == alone.nearest.tobytes()


def test_a_users_error_in_a_task_is_told_as_it_is(tmp_path: Path) -> None:
    shapes = "builtin://shapes?count=64&resolution=8"
    request = request_of(untrained(tmp_path), data=shapes)
    from gan_dist.evaluation.work import TallyReals

    with pytest.raises(DataError, match="have 3 channels and the generator's have 1"):
        list(ray_workers(ScaleConfig())(request, [TallyReals(range(1), 64)]))
