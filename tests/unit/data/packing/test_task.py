"""The making of one shard, without Ray: what it reports, and that neither threads nor stores change it."""

from __future__ import annotations

import io
import json
import re
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gan_dist.core import storage
from gan_dist.core.errors import DataError
from gan_dist.data.packing.decode import Decoding
from gan_dist.data.packing.plan import Plan, make_plan
from gan_dist.data.packing.resize import resizer
from gan_dist.data.packing.sources import open_source
from gan_dist.data.packing.sources.files import Files
from gan_dist.data.packing.sources.items import Item, Source, SourceOptions
from gan_dist.data.packing.task import Report, begin_packing, finish_packing, make_shard, write_record
from tests.support.faults import proxy

COUNT = 40
LANCZOS = re.escape(resizer("lanczos"))
"""By what pictures are resized where nobody says otherwise."""


def encoded(number: int) -> bytes:
    pixels = np.random.default_rng(number).integers(0, 256, (9, 12, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG")
    return buffer.getvalue()


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("photos")
    for number in range(COUNT):
        (folder / f"{number:02d}.png").write_bytes(b"none" if number in (7, 23) else encoded(number))
    return folder


def planned(uri: str, size: int | None = None) -> tuple[Source, Plan]:
    source = open_source(uri, SourceOptions())
    if size is not None:
        source = Source(source.origin, [item._replace(size=size) for item in source.items], None, [], [])
    return source, make_plan(uri, source, Decoding(8), 1.0)


def shard(source: Source, plan: Plan, dest: Path, threads: int = 1) -> tuple[list[Report], bytes]:
    (job,) = plan.jobs()
    reports = list(make_shard(source.origin, plan, job, source.items, str(dest), threads))
    return reports, (dest / job.file).read_bytes()


@pytest.mark.parametrize("size", [1, 2**20, 2**30])
def test_reports_add_up_and_come_sooner_where_files_are_large(
    photos: Path, tmp_path: Path, size: int
) -> None:
    reports, _ = shard(*planned(str(photos), size), tmp_path)
    assert sum(report.decoded for report in reports) == COUNT
    assert len(reports) == {1: 1, 2**20: COUNT // 4, 2**30: COUNT}[size]
    rejected = [rejection for report in reports for rejection in report.rejected]
    assert [path for path, _ in rejected] == ["07.png", "23.png"]
    assert [report.record is not None for report in reports] == [False] * (len(reports) - 1) + [True]
    record = reports[-1].record
    assert record is not None
    assert record.info is not None
    assert list(record.quarantined) == rejected
    assert sum(record.info.row_groups) == COUNT - 2


def test_threads_change_neither_reports_nor_bytes(photos: Path, tmp_path: Path) -> None:
    source, plan = planned(str(photos), 2**20)
    assert shard(source, plan, tmp_path / "one") == shard(source, plan, tmp_path / "many", threads=5)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pillow": "1.0"}, r"decodes with Pillow .*, the plan was made with Pillow 1\.0; install the same"),
        ({"resizer": "Pillow 1.0"}, rf"resizes with {LANCZOS}, the plan was made with Pillow 1\.0; install"),
        (
            {"filter": "box", "resizer": "PyTorch 1.0"},
            r"resizes with Pillow .*, the plan was made with PyTorch 1\.0; install the same",
        ),
    ],
)
def test_a_node_with_another_library_is_refused(
    photos: Path, tmp_path: Path, changed: dict[str, str], message: str
) -> None:
    source, plan = planned(str(photos))
    with pytest.raises(DataError, match=message):
        shard(source, plan.model_copy(update=changed), tmp_path)


def test_a_file_that_is_gone_is_a_rejection(photos: Path, tmp_path: Path) -> None:
    source, plan = planned(str(photos))
    items = [*source.items[:-1], Item("gone.png", "gone.png", None, 10, -1)]
    reports, _ = shard(Source(source.origin, items, None, [], []), plan, tmp_path)
    assert ("gone.png", "the file is gone") in reports[-1].rejected


def test_a_bucket_gives_the_bytes_of_the_folder_in_less_than_its_latencies(
    photos: Path, tmp_path: Path, bucket: str, s3_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in photos.iterdir():
        storage.write_bytes(f"{bucket}/photos/{path.name}", path.read_bytes())
    latency = 0.1
    with proxy(s3_url, seed=3) as running:
        running.faults.latency_s, running.faults.errors = latency, 0.1
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{running.port}")
        source, plan = planned(f"{bucket}/photos")
        began = time.monotonic()
        stored = shard(source, plan, tmp_path / "store")
        assert time.monotonic() - began < COUNT * latency
    assert isinstance(source.origin, Files)
    assert stored == shard(*planned(str(photos)), tmp_path / "local")


def test_what_is_finished_is_not_made_again_and_what_is_left_out_is_listed(
    photos: Path, tmp_path: Path
) -> None:
    source = open_source(str(photos), SourceOptions())
    plan = make_plan(str(photos), source, Decoding(8), 1.0).model_copy(update={"shard_items": 16})
    dest, jobs = str(tmp_path), plan.jobs()
    assert len(jobs) == 3
    assert begin_packing(dest, plan) == {}
    for job in jobs[:2]:
        items = source.items[job.start : job.stop]
        *_, last = make_shard(source.origin, plan, job, items, dest, 1)
        assert last.record is not None
        write_record(dest, job, last.record)
    finished = begin_packing(dest, plan)
    assert sorted(finished) == [0, 1]
    # What was damaged since then is made again.
    shard_file = tmp_path / jobs[0].file
    shard_file.write_bytes(shard_file.read_bytes()[:-1] + b"x")
    assert begin_packing(dest, plan) == {1: finished[1]}

    for job in (jobs[0], jobs[2]):
        *_, last = make_shard(source.origin, plan, job, source.items[job.start : job.stop], dest, 1)
        assert last.record is not None
        finished[job.number] = last.record
    assert finish_packing(dest, plan, source, finished).count == COUNT - 2
    lines = [json.loads(line) for line in (tmp_path / "quarantine.jsonl").read_text().splitlines()]
    assert [line["path"] for line in lines] == ["07.png", "23.png"]
    assert not (tmp_path / ".pack").exists()
