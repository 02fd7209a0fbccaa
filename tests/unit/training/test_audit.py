"""Honest runs pass an audit; a rate, an image, a bit or a figure that was changed afterwards is found."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from gan_dist.artifacts.audit_log import ENTRY, LOG, TENSORS, AuditLog, Entry, first_break, read_log
from gan_dist.artifacts.best import find_best
from gan_dist.artifacts.publish import copy_release
from gan_dist.cli import app
from gan_dist.config import RunConfig, load_config
from gan_dist.core import host, storage
from gan_dist.core.errors import CheckpointError, OutageError
from gan_dist.data.batches.loader import open_images
from gan_dist.data.shards.rows import Rows
from gan_dist.data.shards.shard_set import write_set
from gan_dist.training import audit_checks
from gan_dist.training import replay as replaying
from gan_dist.training.audit import audit_release, audit_run, verdict
from gan_dist.training.audit_checks import Audit, Check
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from gan_dist.training.progress import Progress
from tests.support.gloo import run_gloo
from tests.support.releases import rewrite

DIGITS = "builtin://digits"
SMALL = [
    *("data.resolution=16", "model.name=dcgan", "model.max_width=null", "loss.name=nonsaturating"),
    *("model.width=4", "model.latent_dim=8", "train.batch_size=32", "eval.samples=64", "scale.workers=1"),
    *("eval.every_kimg=0.128", "train.kimg=0.32", "train.keep=9", "train.checkpoint_every_s=null"),
]


def first_digits() -> Rows:
    """Return 512 digits."""
    digits = open_images(DIGITS)
    return Rows.concatenate([digits.read_group(number) for number in range(len(digits.group_rows))])[:512]


def pack(folder: Path) -> str:
    """Write 512 digits as a packed set in two shards; return its path."""
    digits = open_images(DIGITS)
    rows = first_digits()
    described = {key: getattr(digits.manifest, key) for key in ("height", "width", "channels", "classes")}
    write_set(str(folder), iter([rows[:256], rows[256:512]]), group_rows=64, **described)
    return str(folder)


def config(root: Path, *overrides: str) -> RunConfig:
    settings = [f"storage={root}", "name=run", f"data.path={root / 'set'}", *SMALL, *overrides]
    return load_config("digits", settings)


def run(settings: RunConfig, stop_at: int | None = None) -> None:
    torch.set_num_threads(1)
    train(settings, LocalContext(settings.run_uri), stop_at)


@pytest.fixture(scope="module")
def honest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a packed set and of a run, stopped between evaluations, killed, and made longer."""
    root = tmp_path_factory.mktemp("honest")
    pack(root / "set")
    run(config(root), stop_at=96)

    def killed(progress: Progress) -> None:
        if progress.images == 224:
            raise KeyboardInterrupt

    settings = config(root)
    with suppress(KeyboardInterrupt):
        train(settings, LocalContext(settings.run_uri, on_progress=killed))
    run(settings)
    run(config(root, "train.kimg=0.48"))
    return root


def checks(root: Path, segments: int = 9) -> list[Check]:
    return list(audit_run(str(root / "run"), segments, 0, lambda _: None))


def unequal(found: list[Check]) -> dict[str, str]:
    return {check.what: check.detail for check in found if check.equal is not True}


def test_every_stretch_of_an_honest_run_has_the_same_bits_again(honest: Path) -> None:
    assert [entry.images for entry in read_log(str(honest / "run"))] == [96, 128, 256, 320, 384, 480]
    found = checks(honest)
    assert verdict(found) is True
    stretches = {check.what: check.images for check in found if check.images}
    assert stretches == {
        "0 to 0.096 kimg": 96,
        "0.096 to 0.128 kimg": 32,
        "0.128 to 0.256 kimg": 128,
        "0.256 to 0.32 kimg": 64,  # the end of the shorter run, with its extra evaluation
        "0.32 to 0.384 kimg": 64,
        "0.384 to 0.48 kimg": 96,
    }


@pytest.mark.slow
def test_two_workers_are_two_processes_of_an_audit(tmp_path: Path) -> None:
    pack(tmp_path / "set")
    run_gloo(run, 2, config(tmp_path, "scale.workers=2"))
    shutil.rmtree(tmp_path / "run" / "checkpoint_000000000256")  # what is not kept is in the log
    done = CliRunner().invoke(app, ["audit", str(tmp_path / "run"), "--segments", "1", "--json"])
    told = json.loads(done.stdout.splitlines()[-1])
    assert done.exit_code == 0, done.output
    assert told["equal"] is True
    assert [segment["kimg"] for segment in told["segments"]] == ["0.128 to 0.256 kimg"]
    assert {entry.workers for entry in read_log(str(tmp_path / "run"))} == {2}


def test_segments_and_seed_choose_some_of_the_stretches(honest: Path) -> None:
    chosen = []
    for seed in (1, 1, 2):
        found = list(audit_run(str(honest / "run"), 2, seed, lambda _: None))
        chosen.append([check.what for check in found if check.images])
    assert len(chosen[0]) == 2
    assert chosen[0] == chosen[1] != chosen[2]


def changed_rate(root: Path) -> None:
    file = root / "run" / "config.yaml"
    text = file.read_text()
    assert "lr: 0.0002" in text
    file.write_text(text.replace("lr: 0.0002", "lr: 0.0003", 1))


def swapped_image(root: Path) -> None:
    file = root / "set" / "shard-00000.parquet"
    content = bytearray(file.read_bytes())
    at = json.loads((root / "set" / "manifest.json").read_text())["shards"][0]["pixels_at"][0] + 64
    content[at : at + 64], content[at + 64 : at + 128] = content[at + 64 : at + 128], content[at : at + 64]
    file.write_bytes(content)


def swapped_image_in_another_set(root: Path) -> None:
    rows = first_digits()
    rows.pixels[[3, 4]] = rows.pixels[[4, 3]]
    described = {key: getattr(open_images(DIGITS).manifest, key) for key in ("height", "width", "channels")}
    described["classes"] = open_images(DIGITS).manifest.classes
    write_set(str(root / "set"), iter([rows[:256], rows[256:512]]), group_rows=64, **described)


def flipped_bit(root: Path) -> None:
    folder = root / "run" / "checkpoint_000000000256"
    content = bytearray((folder / "generator.safetensors").read_bytes())
    content[-1] ^= 1
    rewrite(folder, "generator.safetensors", bytes(content))


def edited_figure(root: Path) -> None:
    file = root / "run" / "metrics.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    next(one for one in records if one["images"] == 256)["fd_digits"] = 1.0
    file.write_text("".join(json.dumps(one) + "\n" for one in records))


def _rewritten_log(root: Path, **changes: Any) -> None:
    """Change the entry of 256 images, with new hashes for it and all later ones."""
    previous, lines = "", []
    for entry in read_log(str(root / "run")):
        changed = changes if entry.images == 256 else {}
        new = Entry.model_validate({**entry.model_dump(), **changed, "previous": previous}).sealed()
        lines.append(new.model_dump_json() + "\n")
        previous = new.hash
    (root / "run" / LOG).write_text("".join(lines))
    assert first_break(read_log(str(root / "run"))) == ""


def edited_figure_everywhere(root: Path) -> None:
    """Edit it in the log too: only training again tells."""
    edited_figure(root)
    (entry,) = (entry for entry in read_log(str(root / "run")) if entry.images == 256)
    _rewritten_log(root, figures={**entry.figures, "fd_digits": 1.0})


def a_million_workers(root: Path) -> None:
    _rewritten_log(root, workers=1_000_000)


def edited_log(root: Path) -> None:
    file = root / "run" / LOG
    file.write_text(file.read_text().replace('"torch":"', '"torch":"9', 1))


def left_out(root: Path) -> None:
    file = root / "run" / LOG
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(lines[:2] + lines[3:]))


@pytest.mark.parametrize(
    ("change", "where", "what"),
    [
        (changed_rate, "config.yaml", r"optim\.[dg]\.lr was 0\.0002, is now 0\.0003"),
        (swapped_image, "images", "shard-00000"),
        (swapped_image_in_another_set, "images", "is another set than the run was trained with"),
        (flipped_bit, "checkpoint_000000000256", "other weights"),
        (edited_figure, "metrics.jsonl", r"fd_digits after 0\.256 kimg is 1\.0, and was \d+"),
        (edited_figure_everywhere, "0.128 to 0.256 kimg", r"0\.256 kimg is \d\S+, and was logged as 1\.0"),
        (
            a_million_workers,
            "0.128 to 0.256 kimg",
            r"1000000 workers were logged, and scale\.workers allows 1",
        ),
        (edited_log, "audit.jsonl", r"line 1 \(\S+\) was changed"),
        (left_out, "audit.jsonl", r"line 3 \(\S+\) does not follow the one before it"),
    ],
)
def test_what_was_changed_afterwards_is_found(
    change: Callable[[Path], None], where: str, what: str, honest: Path, tmp_path: Path
) -> None:
    shutil.copytree(honest, tmp_path / "copy")
    try:
        change(honest)
        found = checks(honest)
        assert verdict(found) is False
        assert re.search(what, unequal(found)[where])
    finally:  # a run's configuration has the path of its set: both stay where they are
        shutil.rmtree(honest)
        shutil.copytree(tmp_path / "copy", honest)


def test_a_release_is_proved_by_the_run_that_made_it(honest: Path, tmp_path: Path) -> None:
    found, to = find_best(str(honest / "run")), tmp_path / "release"
    copy_release(found, str(to))
    arguments = ["audit", str(to), "--run", str(honest / "run")]
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 0, done.output
    kimg = found.images / 1000
    assert f"generator.safetensors: those of the run after {kimg:g} kimg" in done.output
    assert re.search(rf"equal +\S+ to {kimg:g} kimg: every bit", done.output)

    record = json.loads((to / "metrics.json").read_text())
    rewrite(to, "metrics.json", json.dumps(record | {"fd_digits": 1.0}).encode())
    done = CliRunner().invoke(app, arguments)
    assert done.exit_code == 1
    assert re.search(r"NOT EQUAL +metrics\.json: fd_digits is 1\.0, and was", done.output)

    weights = bytearray((to / "generator.safetensors").read_bytes())
    weights[-1] ^= 1
    rewrite(to, "generator.safetensors", bytes(weights))
    assert unequal(list(audit_release(str(to), str(honest / "run"), lambda _: None))).keys() == {
        "generator.safetensors",
        "metrics.json",
    }


def test_other_bits_on_another_machine_decide_nothing(
    honest: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host, "processor", lambda: "Another Processor")
    assert verdict(checks(honest, 1)) is True  # equal bits prove as much anywhere
    real = replaying.replay

    def rounded_otherwise(config: RunConfig, _: str | None, *given: Any) -> list[Entry]:
        return real(config.model_copy(update={"seed": 1}), None, *given)

    monkeypatch.setattr(audit_checks, "replay", rounded_otherwise)
    found = checks(honest, 1)
    assert verdict(found) is None
    (detail,) = unequal(found).values()
    assert "other bits from" in detail
    assert "not decided: machine was" in detail
    assert "Another Processor" in detail
    shutil.copytree(honest, tmp_path / "copy")
    for file in (tmp_path / "copy" / "run").glob("checkpoint_*/average.safetensors"):
        file.write_bytes(b"")
    unlike = unequal(checks(tmp_path / "copy", 1))
    assert "average.safetensors" in unlike.pop("checkpoint_000000000096")
    assert any("other bits; not decided" in detail for detail in unlike.values())


def test_a_set_that_has_moved_is_audited_where_the_run_says_that_it_is(honest: Path, tmp_path: Path) -> None:
    shutil.copytree(honest, tmp_path / "moved")
    moved = tmp_path / "moved"
    file = moved / "run" / "config.yaml"
    file.write_text(file.read_text().replace(str(honest / "set"), str(moved / "set")))
    (honest / "set").rename(tmp_path / "away")
    try:
        assert verdict(checks(moved, 2)) is True
    finally:
        (tmp_path / "away").rename(honest / "set")


def test_a_run_without_a_log_cannot_be_audited() -> None:
    earlier = Path(__file__).parents[2] / "data" / "version_0_1" / "run"
    with pytest.raises(CheckpointError, match=r"has no audit\.jsonl"):
        Audit(str(earlier))


@pytest.mark.parametrize("place", ["local", "bucket"])
def test_what_a_failure_left_of_a_line_and_a_line_written_twice_break_no_chain(
    place: str, tmp_path: Path, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    uri = f"{request.getfixturevalue('bucket')}/run" if place == "bucket" else str(tmp_path / "run")
    files = dict.fromkeys([*(f"{name}.safetensors" for name in TENSORS), "state.json", "config.yaml"], "0")
    loaded, write = "", storage.write_bytes

    def unanswered(uri: str, content: bytes) -> None:
        write(uri, content)
        raise OutageError("it has not answered")

    for images in (64, 128):
        log = AuditLog(uri, loaded, data="", machine="", workers=1)
        entry, loaded = log.entry(f"checkpoint_{images}", images, files, {}), storage.join(uri, str(images))
        with monkeypatch.context() as patch:
            patch.setattr(storage, "write_bytes", unanswered)
            with pytest.raises(OutageError):
                log.add(entry)
        log.add(entry)
        storage.write_bytes(storage.join(loaded, ENTRY), entry.model_dump_json().encode())
        storage.append_text(storage.join(uri, LOG), '{"checkpoint": "cut')
    assert [one.images for one in read_log(uri)] == [64, 128]
    assert first_break(read_log(uri)) == ""


def test_a_kill_between_a_checkpoint_and_its_line_leaves_the_chain_whole(
    honest: Path, tmp_path: Path
) -> None:
    log = honest / "run" / LOG
    text = log.read_text()
    shutil.copytree(honest / "run", tmp_path / "run")
    log = tmp_path / "run" / LOG
    log.write_text("".join(text.splitlines(keepends=True)[:-1]) + '{"checkpoint": "cut')
    settings = config(honest, f"storage={tmp_path}", "train.kimg=0.512")
    run(settings)
    entries = read_log(str(tmp_path / "run"))
    assert first_break(entries) == ""
    assert [entry.images for entry in entries] == [96, 128, 256, 320, 384, 480, 512]
    assert [entry.hash for entry in entries[:-1]] == [entry.hash for entry in read_log(str(honest / "run"))]
