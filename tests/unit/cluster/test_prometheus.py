"""What a worker sets for Prometheus, without a cluster."""

from __future__ import annotations

import pytest
import torch
from ray.util.metrics import Gauge

from gan_dist.cluster import prometheus
from gan_dist.cluster.prometheus import OF_RANK, OF_RUN, Gauges, tags_of
from gan_dist.training.progress import Progress


@pytest.mark.parametrize("rank", [0, 1])
def test_every_rank_sets_its_own_gauges_and_the_first_those_of_the_run(
    rank: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: dict[str, float] = {}

    def noted(gauge: Gauge, value: float) -> None:
        found[gauge.info["name"]] = value
        assert gauge.info["default_tags"] == {"run": "faces", "trial": "", "rank": str(rank)}

    monkeypatch.setattr(Gauge, "set", noted)
    monkeypatch.setattr(prometheus, "EVERY_S", 0.0)
    gauges = Gauges("/runs/faces", rank, torch.device("cpu"))
    for images in (64, 128):
        gauges.update(Progress(images, 640, 1.0, 2.0, "fd_digits", 5.0, 4.0))
    assert found.keys() == ({*OF_RUN, *OF_RANK} if rank == 0 else {*OF_RANK})
    if rank == 0:
        assert (found["gan_dist_images"], found["gan_dist_distance"]) == (128, 5.0)


def test_a_trial_is_tagged_with_its_search() -> None:
    assert tags_of("s3://b/runs/hunt/trials/00007?region=eu") == {"run": "hunt", "trial": "00007"}
