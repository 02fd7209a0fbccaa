"""What a trial takes of its process, and what it leaves to the next one."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from gan_dist.artifacts.records import read_records
from gan_dist.cluster.tune.trial import _TrialRun, release_memory, trial_device
from gan_dist.core import storage
from gan_dist.core.errors import CapacityError
from gan_dist.core.storage import outage
from gan_dist.training.checkpoint import newest_images
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from tests.support.commands import wait_until
from tests.support.faults import proxy
from tests.unit.training.test_training import config


class Network(nn.Module):
    """One layer; older versions of PyTorch compile none of their own by itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.layer = nn.Linear(width, width)

    def forward(self, images: Tensor) -> Tensor:
        found: Tensor = self.layer(images)
        return found


@pytest.mark.filterwarnings("ignore")
def test_nothing_compiled_is_left_to_the_next_trial(monkeypatch: pytest.MonkeyPatch) -> None:
    compiled = []

    def backend(graph: torch.fx.GraphModule, _: list[Tensor]) -> torch.fx.GraphModule:
        compiled.append(graph)
        return graph

    def trial(width: int) -> None:
        network = Network(width)
        network.compile(backend=backend, dynamic=False)
        network(torch.zeros(1, width))
        release_memory()

    monkeypatch.setattr(torch._dynamo.config, "recompile_limit", 2)
    for width in range(1, 5):
        trial(width)
        assert len(compiled) == width


def test_a_gpu_that_torch_cannot_use_is_no_reason_to_train_on_the_cpu(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    assert trial_device(0.5) == "cpu"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    with pytest.raises(CapacityError, match=r"scale\.gpus_per_worker=0\.5: there is a GPU, .* newer driver"):
        trial_device(0.5)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert trial_device(0.5) == "cuda"
    assert trial_device(0.0) == "cpu"


def test_a_search_is_told_of_no_measurement_that_the_store_does_not_have(
    bucket: str, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outage, "PAUSE_S", 1.0)
    with proxy(s3_url) as between:
        place = f"{bucket}?endpoint_override=127.0.0.1:{between.port}&scheme=http"
        waiting = ["storage.timeout_s=2", "storage.max_outage_s=60", "storage.backend=s3fs"]
        settings = config(place, *waiting, "train.kimg=0.64", "eval.every_kimg=0.32", "scale.workers=1")
        between.faults.planned_for = "/samples/fakes_0"
        between.faults.planned = ["unavailable"] * 1000
        trial = _TrialRun(settings, "fd_digits")
        wait_until(lambda: between.counts["unavailable"] > 0)
        time.sleep(3)  # by then the run trains on without the store
        assert trial._results.empty()
        between.faults.planned.clear()
        measured = []
        while not (result := trial.next_result())["done"]:
            stored = read_records(storage.join(bucket, "run"))
            assert result["images"] in {record["images"] for record in stored if "fd_digits" in record}
            measured.append(result["images"])
        trial.end()
    assert "error" not in result
    assert measured == [320, 640]


def test_a_trial_that_an_earlier_measurement_stops_is_not_trained_further(tmp_path: Path) -> None:
    """As after a kill between the writing of a measurement and its report."""
    settings = config(tmp_path, "train.kimg=0.64", "eval.every_kimg=0.32", "scale.workers=1")
    train(settings, LocalContext(settings.run_uri), stop_at=320)
    before = Path(settings.run_uri, "metrics.jsonl").read_bytes()
    trial = _TrialRun(settings, "fd_digits")
    assert trial.next_result()["images"] == 320
    trial.end()
    assert Path(settings.run_uri, "metrics.jsonl").read_bytes() == before
    assert newest_images(settings.run_uri) == 320
