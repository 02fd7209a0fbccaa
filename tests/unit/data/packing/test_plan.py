"""What packing refuses, plans and keeps, without Ray."""

from __future__ import annotations

import json
import re
import tarfile
from pathlib import Path

import pytest
from PIL import Image

from gan_dist import cli
from gan_dist.core.errors import DataError
from gan_dist.data.packing.decode import Decoding
from gan_dist.data.packing.plan import Job, Plan, finished_set, make_plan, parse_max_bad, require_few_bad
from gan_dist.data.packing.resize import resizer
from gan_dist.data.packing.sources.items import Item, Rejection, Source
from gan_dist.data.packing.task import begin_packing


class Nowhere:
    def open(self) -> None:
        raise AssertionError("a plan reads no pixels")


def source(count: int = 1000, classes: tuple[str, ...] | None = None) -> Source:
    label = -1 if classes is None else 0
    items = [Item(f"{n}.png", f"{n}.png", None, 10, label) for n in range(count)]
    return Source(Nowhere(), items, classes, [], [])  # type: ignore[arg-type]


def plan(count: int = 1000, resolution: int = 64, shard_mb: float = 64) -> Plan:
    return make_plan("photos", source(count), Decoding(resolution), shard_mb)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "photos"
    path.mkdir()
    for number in range(3):
        Image.new("RGB", (9, 9)).save(path / f"{number}.png")
    return path


@pytest.mark.parametrize("resolution", [1, 28, 64, 256, 1024])
@pytest.mark.parametrize("shard_mb", [0.001, 1, 64])
def test_jobs_are_all_items_in_order_in_shards_of_whole_row_groups(resolution: int, shard_mb: float) -> None:
    made = plan(5000, resolution, shard_mb)
    jobs = made.jobs()
    assert [job.number for job in jobs] == list(range(len(jobs)))
    assert [job.start for job in jobs[1:]] == [job.stop for job in jobs[:-1]]
    assert (jobs[0].start, jobs[-1].stop) == (0, 5000)
    assert made.shard_items % made.group_rows == 0
    assert made.shard_items == 1 or made.shard_items * made.row_bytes <= shard_mb * 2**20


def test_a_shard_of_64_pixels_is_64_mib_in_groups_of_8() -> None:
    made = plan()
    assert made.group_rows * made.row_bytes == pytest.approx(8 * 2**20, rel=0.01)
    assert made.shard_items * made.row_bytes == pytest.approx(64 * 2**20, rel=0.01)
    assert Job(12, 0, 1).file == "shard-00012.parquet"


def test_the_plan_knows_every_name_size_label_and_order() -> None:
    base = source()
    hashes = {make_plan("x", base, Decoding(8), 1).items_sha256}
    first, second, *rest = base.items
    for items in (
        [first._replace(name="other"), second, *rest],
        [first._replace(size=11), second, *rest],
        [first._replace(label=1), second, *rest],
        [second, first, *rest],
        [first, *rest],
    ):
        hashes.add(make_plan("x", Source(base.origin, items, None, [], []), Decoding(8), 1).items_sha256)
    rejected = Source(base.origin, base.items, None, [Rejection("a", "b")], [])
    hashes.add(make_plan("x", rejected, Decoding(8), 1).items_sha256)
    assert len(hashes) == 7


@pytest.mark.parametrize(
    ("text", "total", "limit"),
    [("1%", 1000, 10), ("1%", 99, 0), ("0.5%", 1000, 5), ("7", 10, 7), ("100%", 3, 3)],
)
def test_max_bad_is_a_number_or_a_percentage(text: str, total: int, limit: int) -> None:
    assert parse_max_bad(text, total) == limit
    bad = [Rejection(f"{n}.png", "animated") for n in range(limit)]
    require_few_bad(bad, total, text)
    with pytest.raises(DataError, match=re.escape(f"{limit + 1} of {total} images cannot be used so far")):
        require_few_bad([*bad, Rejection("x.png", "animated")], total, text)


def test_few_of_many_reasons_are_listed() -> None:
    with pytest.raises(DataError) as caught:
        require_few_bad([Rejection(f"{n}.png", "animated") for n in range(9)], 100, "0")
    assert str(caught.value).splitlines()[1:] == [
        *(f"  {n}.png: animated" for n in range(5)),
        "  and 4 more",
    ]


def test_a_plan_of_a_crop_is_written_as_by_earlier_versions() -> None:
    written = json.loads(plan().model_dump_json())
    assert list(written)[-1] == "max_pixels"
    assert (written["resolution"], Plan.model_validate(written)) == (64, plan())
    padded = make_plan("photos", source(3), Decoding("16x8", 4, fit="pad:white"), 1)
    again = Plan.model_validate_json(padded.model_dump_json())
    assert again == padded
    assert (again.decoding, again.row_bytes) == (Decoding("16x8", 4, fit="pad:white"), 16 * 8 * 4)


def test_a_folder_with_something_else_is_refused(tmp_path: Path) -> None:
    dest = str(tmp_path)
    (tmp_path / "notes.txt").write_text("may stay")
    assert finished_set(dest, plan()) is None
    assert begin_packing(dest, plan()) == {}
    assert finished_set(dest, plan()) is None
    for other, message in (
        (plan(999), "images was 1000 and is 999"),
        (plan(resolution=32), "resolution was 64 and is 32"),
        (make_plan("x", source(classes=("a",)), Decoding(64), 64), "names, sizes or labels have changed"),
        (plan().model_copy(update={"pillow": "0"}), "pillow was .* and is 0"),
        (
            plan().model_copy(update={"resizer": "Pillow 0"}),
            f"resizer was {resizer('lanczos')} and is Pillow 0",
        ),
    ):
        with pytest.raises(DataError, match=f"begun with another plan: .*{message}.*delete the folder"):
            finished_set(dest, other)
    (tmp_path / "pack.json").write_text("{}")
    with pytest.raises(DataError, match=r"pack.json is not a plan of this version"):
        finished_set(dest, plan())
    (tmp_path / "pack.json").unlink()
    (tmp_path / "shard-00000.parquet").write_text("")
    with pytest.raises(DataError, match=r"holds another set \(shard-00000.parquet\); choose another DEST"):
        finished_set(dest, plan())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["{folder}", "{dest}"], "--resolution is missing; call gan-dist pack SOURCE DEST --resolution 64"),
        (["{folder}", "--resolution", "64"], "DEST is missing"),
        (["{folder}", "", "--resolution", "64"], "DEST is missing"),
        (["{dest}", "{dest}", "--resolution", "0"], "--resolution must be from 1 to 16384, not 0"),
        (["{dest}", "{dest}", "--size", "8x16385"], "--resolution must be from 1 to 16384, not 8x16385"),
        (["{dest}", "{dest}", "--size", "8 x 8"], "or WIDTHxHEIGHT, such as 512x384, not '8 x 8'"),
        (["{dest}", "{dest}", "--resolution", "8", "--fit", "padd"], "not padd; the nearest is pad"),
        (
            ["{dest}", "{dest}", "--resolution", "8", "--fit", "pad:red"],
            "--fit must be crop, pad, pad:COLOUR",
        ),
        (["{folder}", "{dest}", "--resolution", "16385"], "--resolution must be from 1 to 16384, not 16385"),
        (["{folder}", "{dest}", "--resolution", "8", "--channels", "2"], "--channels must be 3"),
        (
            ["{folder}", "{dest}", "--resolution", "8", "--filter", "nearest"],
            "--filter must be one of lanczos, ",
        ),
        (["{folder}", "{dest}", "--resolution", "8", "--shard-mb", "0"], "--shard-mb must be above 0, not 0"),
        (
            ["{folder}", "{dest}", "--resolution", "8", "--shard-mb", "1e305"],
            "--shard-mb must be above 0, not",
        ),
        (["{dest}", "{dest}", "--resolution", "8", "--max-bad", "-1"], "a percentage such as 1%, not '-1'"),
        (
            ["{folder}", "{dest}", "--resolution", "8", "--max-bad", "101%"],
            "a percentage such as 1%, not '101%'",
        ),
        (
            ["{folder}", "{folder}/x", "--resolution", "8"],
            "DEST .* is inside SOURCE .*; choose a folder outside",
        ),
        (["{folder}", "{folder}", "--resolution", "8"], "is inside SOURCE"),
        (["{folder}", "{dest}/../photos/x", "--resolution", "8"], "is inside SOURCE"),
        (["{folder}", "{dest}", "--resolution", "8", "--image-column", "x"], "is for Parquet files; leave"),
        (
            ["{dest}", "{dest}", "--resolution", "8", "--max-megapixels", "0"],
            "--max-megapixels must be above 0",
        ),
        (
            ["{dest}", "{dest}", "--resolution", "8", "--max-megapixels", "inf"],
            "--max-megapixels must be above",
        ),
        (["{dest}", "{folder}", "--resolution", "8"], "does not exist; give a folder"),
        (["--verify", "{dest}", "{folder}"], "--verify takes one folder"),
        (["--verify", "{folder}"], "^gan-dist: [^=]*photos holds no image set"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_anything_is_written(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    dest = tmp_path / "dest"
    with pytest.raises(SystemExit) as caught:
        cli.main(["pack", *(argument.format(folder=folder, dest=dest) for argument in arguments)])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert error.startswith("gan-dist: ")
    assert re.search(message, error)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["0.png", "1.png", "2.png", "photos"]


def test_a_bucket_that_is_missing_is_told_before_the_source_is_listed(
    tmp_path: Path, bucket: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for dest, message in (
        ("s3://no-such-bucket-here/x", "s3://no-such-bucket-here/x: the bucket does not exist; create it"),
        (f"{bucket}/x", f"{tmp_path}/none does not exist; give a folder"),
    ):
        with pytest.raises(SystemExit):
            cli.main(["pack", str(tmp_path / "none"), dest, "--resolution", "8"])
        assert message in capsys.readouterr().err


def test_a_destination_that_cannot_be_written_is_told_before_a_cluster_is_joined(
    folder: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")  # where none is
    with pytest.raises(SystemExit) as caught:
        cli.main(["pack", str(folder), str(folder.parent / "file" / "set"), "--resolution", "8"])
    assert "nobody answers" in capsys.readouterr().err
    (folder.parent / "file").touch()
    with pytest.raises(SystemExit) as caught:
        cli.main(["pack", str(folder), str(folder.parent / "file" / "set"), "--resolution", "8"])
    assert caught.value.code == 2
    assert "is a file, or in one, where there should be a folder" in capsys.readouterr().err


@pytest.mark.parametrize("content", ["", "{", '{"schema_version": 1}'])
def test_a_damaged_manifest_of_a_finished_set_is_told(tmp_path: Path, content: str) -> None:
    begin_packing(str(tmp_path), plan())
    (tmp_path / "manifest.json").write_text(content)
    with pytest.raises(DataError, match=r"manifest.json is not a manifest of this version .*; delete it"):
        finished_set(str(tmp_path), plan())


def test_links_to_nothing_count_as_bad(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "gone.png").symlink_to("none")
    with pytest.raises(SystemExit) as caught:
        cli.main(["pack", str(folder), str(tmp_path / "dest"), "--resolution", "8", "--dry-run"])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "1 of 4 images cannot be used so far, and --max-bad 1% allows 0" in error
    assert "  gone.png: a link to nothing" in error


def test_a_tar_that_is_cut_short_passes_no_limit_but_100_percent(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """How many of its images are lost is not known: it may be one in a million or all but one."""
    whole, cut = tmp_path / "tars" / "whole.tar", tmp_path / "tars" / "cut.tar"
    whole.parent.mkdir()
    with tarfile.open(whole, "w") as archive:
        for number in range(200):
            archive.add(folder / "0.png", f"{number}.png")
    with tarfile.open(whole) as archive:
        end = archive.getmembers()[3].offset
    cut.write_bytes(whole.read_bytes()[:end])
    command = ["pack", str(whole.parent), str(tmp_path / "dest"), "--resolution", "8", "--dry-run"]
    for limit in ("1%", "99.9%", "1", "100", "1000000"):
        with pytest.raises(SystemExit) as caught:
            cli.main([*command, "--max-bad", limit])
        assert caught.value.code == 2
        error = capsys.readouterr().err
        assert f"lost with 1 damaged file is not known, so that --max-bad {limit} cannot be kept" in error
        assert f"\n  cut.tar is damaged or truncated at byte {end}" in error
    cli.app([*command, "--max-bad", "100%"], standalone_mode=False)
    told = capsys.readouterr()
    assert "images: 203" in told.out
    assert told.err.startswith(f"warning: cut.tar is damaged or truncated at byte {end}")
    assert told.err.endswith("used of it: 3 images\n")


def test_a_dry_run_shows_sizes_and_writes_nothing(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dest = tmp_path / "dest"
    command = ["pack", str(folder), str(dest), "--resolution", "8", "--dry-run", "--json"]
    cli.app(command, standalone_mode=False)
    shown = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert (shown["images"], shown["shards"], shown["bytes"]) == (3, 1, 3 * 8 * 8 * 3)
    assert not dest.exists()
