"""Records of a run, read while it goes on: each once, whatever is appended, cut short or written again."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from gan_dist.artifacts.records import METRICS, RecordReader, RecordWriter, read_records, read_valid_records
from gan_dist.core import storage
from gan_dist.core.errors import StorageError


def write_lines(uri: str, *images: int) -> None:
    """Write a file anew with records of these numbers of images; its lines differ in length."""
    lines = "".join(f'{{"images": {number}, "fd_digits": {number / 7}}}\n' for number in images)
    storage.write_bytes(storage.join(uri, METRICS), lines.encode())


def add(writer: RecordWriter, record: dict[str, object]) -> None:
    """Add a record, and write it at once."""
    writer.add(record)
    writer.write()()


def read_images(reader: RecordReader) -> list[int]:
    return [record["images"] for record in reader.read_new()]


@pytest.fixture(params=["local", "bucket"])
def uri(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "local":
        return str(tmp_path / "run")
    return f"{request.getfixturevalue('bucket')}/run"


def test_appended_records_are_returned_once(uri: str) -> None:
    reader, writer = RecordReader(uri), RecordWriter(uri, 0)
    assert read_images(reader) == []
    for images in (64, 128):
        add(writer, {"images": images, "fd_digits": images / 3})
    assert read_images(reader) == [64, 128]
    assert read_images(reader) == []
    add(writer, {"images": 192, "fd_digits": 1.0})
    (record,) = reader.read_new()
    assert record == read_records(uri)[-1]
    writer.close()


def test_only_what_was_appended_is_read(uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    write_lines(uri, *range(64, 64 * 101, 64))
    reader, read = RecordReader(uri), storage.read_bytes
    assert len(reader.read_new()) == 100
    lengths: list[int] = []

    def counted(at: str, start: int = 0) -> bytes:
        content = read(at, start)
        lengths.append(len(content))
        return content

    monkeypatch.setattr(storage, "read_bytes", counted)
    assert reader.read_new() == []
    storage.append_text(storage.join(uri, METRICS), '{"images": 6464}\n')
    del lengths[1:]
    assert read_images(reader) == [6464]
    assert max(lengths) < 100


def test_a_line_that_is_being_written_is_returned_when_it_is_whole(uri: str) -> None:
    reader, file = RecordReader(uri), storage.join(uri, METRICS)
    storage.append_text(file, '{"images": 64}\n{"images": 1')
    assert read_images(reader) == [64]
    storage.append_text(file, '28, "name": "é')
    assert read_images(reader) == []
    storage.append_text(file, '"}\n')
    assert reader.read_new() == [{"images": 128, "name": "é"}]


@pytest.mark.parametrize("kept", [[], [64], [64, 128], [64, 128, 192]], ids=str)
@pytest.mark.parametrize("more", [[], [200], [192, 256, 320, 384]], ids=str)
def test_a_file_that_a_resume_has_written_anew_is_read_from_its_start(
    kept: list[int], more: list[int], tmp_path: Path
) -> None:
    uri = str(tmp_path)
    write_lines(uri, 64, 128, 192)
    reader = RecordReader(uri)
    assert read_images(reader) == [64, 128, 192]
    after = [*kept, *(images for images in more if images > max([0, *kept]))]
    write_lines(uri, *after)
    assert read_images(reader) == [images for images in after if images > 192]
    storage.append_text(storage.join(uri, METRICS), '{"images": 448}\n')
    assert read_images(reader) == [448]


def test_a_resumed_run_writes_its_records_again_and_none_is_returned_twice(uri: str) -> None:
    first = RecordWriter(uri, 0)
    for images in (64, 128, 192):
        add(first, {"images": images, "fd_digits": images / 3})
    first.close()
    reader = RecordReader(uri)
    assert read_images(reader) == [64, 128, 192]
    resumed = RecordWriter(uri, 64)
    for images in (128, 192, 256):
        add(resumed, {"images": images, "fd_digits": images / 3, "images_per_second": 12.5})
    resumed.close()
    assert read_images(reader) == [256]


def test_a_damaged_line_is_named(uri: str) -> None:
    file = storage.join(uri, METRICS)
    write_lines(uri, 64, 128)
    reader = RecordReader(uri)
    reader.read_new()
    storage.append_text(file, '{"images": 192\n{"images": 256}\n[]\n')
    for read in (reader.read_new, reader.read_new, lambda: read_records(uri)):
        with pytest.raises(StorageError, match=r"metrics\.jsonl is damaged in lines 3, 5; delete"):
            read()
    records, damaged = read_valid_records(uri)
    assert ([record["images"] for record in records], damaged) == ([64, 128, 256], [3, 5])


@pytest.mark.parametrize(
    "line",
    [
        '{"images": -1}',
        '{"images": true}',
        '{"images": 1.5}',
        f'{{"images": {10**20}}}',
        '{"images": 1, "note": "\\ud800"}',
        "[" * 10_000,
    ],
)
def test_a_line_that_no_run_writes_is_damaged(line: str, tmp_path: Path) -> None:
    (tmp_path / METRICS).write_text(f'{line}\n{{"images": 64, "note": "\\u00e9"}}\n')
    assert read_valid_records(str(tmp_path)) == ([{"images": 64, "note": "é"}], [1])


def test_a_line_is_json_that_any_reader_takes_whatever_was_measured(tmp_path: Path) -> None:
    writer = RecordWriter(str(tmp_path), 0)
    add(writer, {"images": 64, "fd_digits": math.nan, "loss_d": math.inf, "loss_g": 0.5})

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON")

    record = json.loads((tmp_path / METRICS).read_text(), parse_constant=refuse)
    assert [record[key] for key in ("fd_digits", "loss_d", "loss_g")] == [None, None, 0.5]
    assert read_records(str(tmp_path)) == [record]
