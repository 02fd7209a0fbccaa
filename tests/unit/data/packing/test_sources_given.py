"""Sources as people have them: joined tars, hub clones, StyleGAN's folders, names that look the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from gan_dist import cli
from gan_dist.data.packing.sources import open_source
from gan_dist.data.packing.sources.items import SourceOptions
from tests.unit.data.packing.test_sources import names, picture, tar, values

# Tars


@pytest.mark.parametrize("zeros", [0, 512, 3 * 2**20])
def test_tars_one_after_another_are_read_to_the_last(tmp_path: Path, zeros: int) -> None:
    first = tar(tmp_path / "x" / "a.tar", *((f"{n}.png", picture(n)) for n in range(5))).read_bytes()
    second = tar(tmp_path / "x" / "b.tar", *((f"{n}.png", picture(n + 5)) for n in range(5))).read_bytes()
    (tmp_path / "ab.tar").write_bytes(first + bytes(zeros) + second)
    source = open_source(str(tmp_path / "ab.tar"), SourceOptions())
    assert values(source) == list(range(10))
    assert (source.rejected, source.damaged) == ([], ())


@pytest.mark.parametrize("rest", [b"x", b"what follows is no tar" * 100])
def test_bytes_after_the_end_of_a_tar_are_reported(tmp_path: Path, rest: bytes) -> None:
    whole = tar(tmp_path / "a.tar", ("a.png", picture(1))).read_bytes()
    (tmp_path / "a.tar").write_bytes(whole + rest)
    source = open_source(str(tmp_path), SourceOptions())
    assert names(source) == ["a.tar/a.png"]
    assert f"a.tar is damaged or truncated at byte {len(whole)} " in source.damaged[0]


def dotted(path: Path) -> Path:
    good = ((f"g{n}.png", picture(n)) for n in range(100))
    return tar(path, *good, *((f"2024.{n:03}.png", picture(n % 256)) for n in range(300)))


def test_every_image_of_a_shared_key_is_counted_and_named(tmp_path: Path) -> None:
    source = open_source(str(dotted(tmp_path / "a.tar")), SourceOptions())
    assert len(source.items) == 100
    assert [rejection.path for rejection in source.rejected] == [f"a.tar/2024.{n:03}.png" for n in range(300)]
    (reason,) = {rejection.reason for rejection in source.rejected}
    assert reason == "several images under one key, the name up to its first dot: rename them"


def test_a_dry_run_foretells_what_is_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["pack", str(dotted(tmp_path / "a.tar")), str(tmp_path / "dest"), "--resolution", "8"]
    with pytest.raises(SystemExit) as caught:
        cli.main([*command, "--dry-run"])
    assert caught.value.code == 2
    assert "300 of 400 images cannot be used so far" in capsys.readouterr().err
    cli.app([*command, "--dry-run", "--max-bad", "75%", "--json"], standalone_mode=False)
    lines = capsys.readouterr().out.splitlines()
    reason = "several images under one key, the name up to its first dot: rename them"
    assert f"  300: {reason}" in lines
    shown = json.loads(lines[-1])
    assert (shown["images"], shown["quarantined"], shown["reasons"]) == (100, 300, {reason: 300})
