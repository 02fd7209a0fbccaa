"""Runs under the real TorchTrainer, with images streamed by Ray Data."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pytest
import ray

import gan_dist
from gan_dist.artifacts.records import read_records
from gan_dist.cluster.nodes import placement
from gan_dist.cluster.nodes.placement import placeable_workers
from gan_dist.cluster.train import driver
from gan_dist.cluster.train.status import RunStatus, StatusClient, start_status_actor
from gan_dist.config import RunConfig, ScaleConfig
from gan_dist.core import storage
from gan_dist.core.errors import CapacityError, StorageError, UntrustedCodeError, WorkerError
from gan_dist.core.storage.hashed_folder import checkpoint_names, write_folder
from gan_dist.data.builtin import DIGITS
from gan_dist.training.progress import Progress
from tests.support.commands import wait_until
from tests.support.disks import small_disk
from tests.support.faults import proxy
from tests.support.gloo import run_gloo
from tests.unit.training.test_training import assert_same_bits, config, run_on_ranks, tensors, timeless

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("local_ray")]
WORKERS = ["scale.workers=2", "eval.every_kimg=0.064"]
OWN = "tests.own_networks:Perceptrons"


@pytest.mark.slow
def test_a_resumed_run_from_and_to_a_bucket_that_fails_for_a_moment_has_the_bits_of_plain_torch_distributed(
    bucket: str, s3_url: str, tmp_path: Path
) -> None:
    own = [f"model.name={OWN}", "model.settings.depth=2"]
    whole = config(tmp_path, *WORKERS, *own, "train.kimg=0.256", "data.cache=memory")
    half = config(tmp_path / "half", *WORKERS, *own, "train.kimg=0.128", "data.cache=memory")
    run_gloo(run_on_ranks, 2, whole, half)

    images, run_uri = storage.join(bucket, "digits"), storage.join(bucket, "run")
    storage.copy_tree(str(DIGITS), images)
    storage.copy_tree(half.run_uri, run_uri)
    settings = storage.join(run_uri, "config.yaml")
    begun = storage.read_text(settings).replace(half.data.path, images)  # the same set in another place
    storage.write_bytes(settings, begun.encode())
    streamed = [*WORKERS, *own, f"data.path={images}", "data.cache=stream", "storage.backend=s3fs"]
    news: list[RunStatus] = []
    with proxy(s3_url) as between:
        between.faults.planned = ["unavailable"] * 12
        between.faults.planned_for = "/discriminator.safetensors"
        place = f"{bucket}?endpoint_override=127.0.0.1:{between.port}&scheme=http"
        parts = config(place, *streamed, "train.kimg=0.256")
        assert driver.run(parts, news.append).finished
        # The store's failures have cost no checkpoint.
        assert between.counts["unavailable"] == 12
        assert news[-1].warnings == ()
        # Three are kept, those of before the resumption included.
        kept = [f"checkpoint_{number:012d}" for number in (256, 192, 128)]
        assert checkpoint_names(parts.run_uri) == kept

        assert_same_bits(tensors(whole), tensors(parts))
        assert timeless(read_records(whole.run_uri)) == timeless(read_records(parts.run_uri))
        shown = [one.progress for one in news if one.progress is not None]
        assert shown[-1].images == shown[-1].total_images == 256
        best = json.loads(storage.read_text(storage.join(parts.run_uri, "best.json")))
        assert shown[-1].best == best["value"]
        with pytest.raises(UntrustedCodeError, match="needs code of its maker's own"):
            gan_dist.load(parts.run_uri)
        assert gan_dist.load(parts.run_uri, trust=OWN).sample(2).shape == (2, 1, 16, 16)


@pytest.mark.slow
def test_a_run_that_fills_a_disk_ends_at_once_by_its_own_error(tmp_path: Path) -> None:
    news: list[RunStatus] = []
    with (
        small_disk(tmp_path / "small", kib=512) as disk,
        pytest.raises(StorageError, match="No space left on device") as caught,
    ):
        driver.run(config(disk, "model.width=32"), news.append)
    assert "the run is kept as its last checkpoint has it" in str(caught.value)
    assert news[-1].warnings == ()


@pytest.mark.slow
def test_an_interrupted_run_leaves_neither_workers_nor_a_thread_that_uses_ray(tmp_path: Path) -> None:
    def interrupt(status: RunStatus) -> None:
        if status.progress is not None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        driver.run(config(tmp_path, "train.kimg=100000", "eval.every_kimg=90000"), interrupt)
    assert "fit" not in {thread.name for thread in threading.enumerate()}
    wait_until(lambda: ray.available_resources().get("CPU") == 2.0, 30)


def test_more_workers_than_the_cluster_holds_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(
        CapacityError, match=r"needs 8 x 1 = 8 CPUs; .* has 2 CPUs and 0 GPUs on 1 node"
    ) as caught:
        driver.run(config(tmp_path, "scale.workers=8"), lambda _: None)
    assert "use scale.workers=2" in str(caught.value)
    with pytest.raises(CapacityError, match=r"scale\.min_workers=4 needs 4 x 1 = 4 CPUs") as caught:
        driver.run(config(tmp_path, "scale.workers=8", "scale.min_workers=4"), lambda _: None)
    assert "use scale.min_workers=2" in str(caught.value)
    with pytest.raises(CapacityError, match="2 x 1 = 2 GPUs"):
        driver.run(config(tmp_path, "scale.gpus_per_worker=1"), lambda _: None)


class _Failing:
    """A worker group that fails at once; the run's first one leaves a checkpoint."""

    def __init__(self, settings: RunConfig, workers: int, board: object, group: int) -> None:
        self.workers, self.error = workers, RuntimeError("a bad node")
        if group == 1:
            folder = storage.join(settings.run_uri, "checkpoint_000000000064")
            write_folder(folder, "checkpoint", [("state.json", b"")])

    def is_running(self) -> bool:
        return False

    def close(self) -> None:
        pass


def test_a_run_ends_after_four_failures_without_a_checkpoint_between_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(driver, "WorkerGroup", _Failing)  # real ones would take minutes
    monkeypatch.setattr(placement, "node_addresses", lambda _, alive=True: [] if alive else ["10.0.0.7"])
    news: list[RunStatus] = []
    with pytest.raises(WorkerError, match=r"failed 4 times without a new checkpoint.* a bad node") as caught:
        driver.run(config(tmp_path), news.append)
    assert "the run is kept as it was at 0.064 kimg" in str(caught.value)
    told = [one for one in news[-1].warnings if one.endswith("the run goes on from 0.064 kimg")]
    assert told == ["lost 10.0.0.7; the run goes on from 0.064 kimg"] * 4


@pytest.fixture
def no_room(a_busy_cpu: None, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: ARG001
    """One of the two CPUs is reserved, and a run soon sees that it has no room."""
    monkeypatch.setattr(placement, "PLACED_S", 1.0)


@pytest.mark.usefixtures("no_room")
def test_a_run_without_room_says_what_it_waits_for_and_ends_to_be_continued(tmp_path: Path) -> None:
    news: list[RunStatus] = []
    with pytest.raises(
        WorkerError, match=r"no room for 2 workers of 1 CPU for 1 s .* kept as it was at 0 kimg"
    ):
        driver.run(config(tmp_path, "scale.workers=2", "scale.wait_s=1"), news.append)
    (waits,) = news[-1].warnings
    assert waits.startswith("no room for 2 workers of 1 CPU: the run waits for nodes, 1 s at most")


@pytest.mark.usefixtures("no_room")
def test_a_run_that_waits_for_room_can_be_stopped(tmp_path: Path) -> None:
    news: list[RunStatus] = []
    outcome = driver.run(config(tmp_path, "scale.workers=2"), news.append, should_stop=lambda: len(news) > 2)
    assert (outcome.finished, outcome.images) == (False, 0)


@pytest.mark.usefixtures("no_room")
def test_room_is_the_largest_number_of_workers_that_can_be_placed() -> None:
    half = ScaleConfig(cpus_per_worker=0.5)
    assert placeable_workers(half, (4, 2, 1)) == 2
    assert placeable_workers(half, (4, 3)) is None
    assert placeable_workers(half, (4, 3), placed=1) == 3


def test_workers_that_others_have_replaced_are_not_heard_and_may_not_write() -> None:
    board = start_status_actor()
    first = StatusClient(board, ray.get(board.start_group.remote()))
    first.require_latest()
    second = StatusClient(board, ray.get(board.start_group.remote()))
    first.progress = Progress(1, 2, 0.0, 0.0, "fd", None, None)
    with pytest.raises(WorkerError, match="other workers have taken over this run"):
        first.require_latest()
    first.close()
    second.require_latest()
    second.close()
    assert ray.get(board.read.remote()).progress is None
