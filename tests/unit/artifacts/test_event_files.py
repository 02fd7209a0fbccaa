"""TensorBoard's events: grouped, over kimg, each point once however often a run is resumed."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import pytest
from PIL import Image
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from gan_dist.artifacts import event_files
from gan_dist.artifacts.event_files import tag_of
from gan_dist.artifacts.records import RecordWriter, read_records
from gan_dist.core import storage
from gan_dist.core.errors import StorageError
from gan_dist.core.images import write_png
from tests.support.disks import largest_file

GRID = Image.new("RGB", (1536, 768), (200, 0, 0))


def events(uri: str, folder: Path) -> EventAccumulator:
    storage.copy_tree(storage.join(uri, "tensorboard"), str(folder))
    return EventAccumulator(str(folder)).Reload()


def train(uri: str, start: int, stop: int, every: int, images_per_step: int = 1000) -> None:
    """Write what a run records between two numbers of images, whose batches have 64: a run that is killed."""
    writer = RecordWriter(uri, start, images_per_step)
    for images in range(start + 64, stop + 1, 64):
        record: dict[str, object] = {"images": images, "kimg": images / 1000, "loss_d": images / 7}
        if images // 2500 > (images - 64) // 2500:
            write_png(storage.join(uri, "samples", f"fakes_{images / 1000:010.3f}.png"), GRID)
            writer.add_picture("fakes", GRID, images)
            writer.add({**record, "fd_digits": images / 3, "samples": 10})
        elif images // every > (images - 64) // every:
            writer.add(record)
    writer.write()()
    writer.close()


@pytest.mark.parametrize("place", ["local", "bucket"])
def test_a_resumed_run_has_every_point_once_over_kimg(
    place: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(event_files, "SEGMENT_BYTES", 2000)
    uri = f"{request.getfixturevalue('bucket')}/run" if place == "bucket" else str(tmp_path / "run")
    train(uri, 0, 6400, 1000)
    # It is killed, and goes on from the checkpoint at 3.2 kimg; then once more from one at 6.4.
    train(uri, 3200, 6400, 1000)
    storage.write_bytes(storage.join(uri, "samples", "fakes_000003.000.png"), b"damaged")
    train(uri, 6400, 8192, 1000)
    assert [one["images"] for one in read_records(uri)] == [
        *(1024, 2048, 2560, 3008, 4032, 5056, 6016, 7040, 7552, 8000)
    ]
    found = events(uri, tmp_path / "seen")
    assert found.Tags()["scalars"] == ["Progress/images", "Loss/D", "Metrics/fd_digits"]
    # The evaluation after 2.56 kimg has no loss of its own: there is one at this step.
    losses = [(one.step, one.value) for one in found.Scalars("Loss/D")]
    by_step = {images // 1000: images for images in (1024, 2048, 3008, 4032, 5056, 6016, 7040, 8000)}
    assert losses == [(step, pytest.approx(images / 7)) for step, images in by_step.items()]
    assert [one.step for one in found.Scalars("Metrics/fd_digits")] == [2, 5, 7]
    assert [(one.step, one.width, one.height) for one in found.Images("Samples/fakes")] == [
        (step, 768, 384) for step in (2, 5, 7)
    ]


def test_runs_that_record_more_often_count_images(tmp_path: Path) -> None:
    train(str(tmp_path / "run"), 0, 512, 128, images_per_step=1)
    found = events(str(tmp_path / "run"), tmp_path / "seen")
    assert [one.step for one in found.Scalars("Loss/D")] == [128, 256, 384, 512]


def test_what_belongs_together_is_in_one_group() -> None:
    tags = {
        "loss_d": "Loss/D",
        "real_accuracy": "Accuracy/real",
        "grad_norm_g": "Norms/grad_G",
        "s_per_kimg": "Timing/s_per_kimg",
        "peak_memory_gib": "Resources/peak_memory_gib",
        "augment_p": "Progress/augment_p",
        "fid": "Metrics/fid",
        "recall_digits": "Metrics/recall_digits",
    }
    assert {key: tag_of(key) for key in tags} == tags


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")  # TensorBoard's thread
def test_a_full_folder_of_temporary_files_ends_no_run_and_is_told_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = str(tmp_path)
    log = Mock()
    monkeypatch.setattr(event_files, "LOG", log)
    with largest_file(300):
        files = event_files.EventFiles(uri, [], 1000)
        for images in range(1000, 201_000, 1000):  # TensorBoard writes in a thread of its own
            files.add({"images": images, "loss_d": 1.0})
            files.upload()()
        files.close()
    told = [call.args[0] for call in log.warning.call_args_list]
    assert told == ["warning: no more events for TensorBoard: %s: %s"]
    with largest_file(300):
        writer = RecordWriter(uri, 0)
        for images in range(1000, 9000, 1000):
            writer.add({"images": images, "loss_d": 1.0})
        with pytest.raises(StorageError, match=r"metrics\.jsonl cannot be used: .*File too large"):
            writer.write()()
        writer.close()
    assert (tmp_path / "metrics.jsonl").read_text() == ""


def test_records_that_are_written_again_after_a_failure_are_there_once(tmp_path: Path) -> None:
    writer = RecordWriter(str(tmp_path), 0)
    writer.add({"images": 1000, "loss_d": 1.0})
    writer.write()()
    writer.add({"images": 2000, "loss_d": 1.0})
    again = writer.write()
    file = tmp_path / "metrics.jsonl"
    with file.open("a") as stream:
        stream.write('{"images": 2000, "loss')  # what a network disk took before it failed
    again()
    writer.close()
    assert [record["images"] for record in read_records(str(tmp_path))] == [1000, 2000]
