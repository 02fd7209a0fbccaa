"""The verb `promote`: the bits of a retraining, from checkpoints; what is damaged, refused or killed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner, Result

from gan_dist.artifacts.records import read_records
from gan_dist.cli import app
from gan_dist.cli.promotion import make_plan
from gan_dist.config import RunConfig
from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError, GanDistError, NonFiniteError
from gan_dist.core.interrupts import INTERRUPTED
from gan_dist.core.storage import lock
from gan_dist.core.storage.hashed_folder import write_folder
from gan_dist.models import transfer
from gan_dist.search.plan import make_plan as plan_search
from gan_dist.search.start import begin
from gan_dist.search.study import SearchStudy
from gan_dist.search.study_storage import study_storage
from gan_dist.training.audit import audit_run
from gan_dist.training.checkpoint import newest_images
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from tests.support.searches import flip_bit

SMALL = [
    *("data.resolution=16", "model.name=dcgan", "model.max_width=null", "loss.name=nonsaturating"),
    *("model.width=4", "model.latent_dim=8", "train.batch_size=32", "eval.samples=64", "eval.target=null"),
    *("eval.every_kimg=0.064", "train.kimg=0.128", "log.every_kimg=0.064", "search.scheduler=none"),
    *("search.space={optim.g.lr: [0.001, 0.002, 0.0005]}", "search.trials=3", "search.algorithm=grid"),
]


def locally(config: RunConfig, *_: object) -> object:
    torch.set_num_threads(1)
    return train(config, LocalContext(config.run_uri))


@pytest.fixture(scope="module")
def searched(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a search whose trials have run in this process; trial 2 has failed after its last one."""
    root = tmp_path_factory.mktemp("searched")
    plan = plan_search("search-digits", [*SMALL, f"storage={root}", "name=faces"])
    begin(plan, "fd_digits")
    study = SearchStudy(study_storage(plan.uri, None), "faces", plan.space, plan.search, plan.grace)
    while (trial := study.next()) is not None:
        config = plan.trial(trial.number, trial.params)
        locally(config)
        for record in read_records(config.run_uri):
            if "fd_digits" in record:
                study.report(trial.number, record["images"], record["fd_digits"])
        if trial.number == 2:
            study.fail(2, "a gradient is not finite")
        else:
            study.complete(trial.number)
    return root


@pytest.fixture
def search(searched: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the search; runs train in this process, and no lock is looked at twice."""
    shutil.copytree(searched / "faces", tmp_path / "runs" / "faces")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("gan_dist.cluster.train.driver.run", locally)
    monkeypatch.setattr(lock, "CONFIRM_S", 0.0)
    return tmp_path / "runs" / "faces"


def call(*arguments: str) -> Result:
    return CliRunner().invoke(app, arguments, catch_exceptions=False)


def told(result: Result) -> dict[str, Any]:
    found = json.loads(result.stdout.splitlines()[-1])
    assert isinstance(found, dict)
    return found


def hashes(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of all files below a folder, locks left out."""
    return {
        str(file.relative_to(folder)): hashlib.sha256(file.read_bytes()).hexdigest()
        for file in sorted(folder.rglob("*"))
        if file.is_file() and file.name != lock.LOCK_FILE
    }


def tensors(run: Path) -> dict[str, str]:
    """Return the hashes of the tensors in a run's newest checkpoint."""
    name = f"checkpoint_{newest_images(str(run)):012d}"
    found = hashes(run / name)
    return {file: found[file] for file in found if file.endswith(".safetensors")}


def ranked(search: Path) -> list[int]:
    """Return the trials that have not failed, the best first."""
    lowest = {}
    for number in (0, 1):
        records = read_records(str(search / "trials" / f"{number:05d}"))
        lowest[number] = min(record["fd_digits"] for record in records if "fd_digits" in record)
    return sorted(lowest, key=lambda number: lowest[number])


def test_a_promoted_trial_has_the_bits_of_the_winner_trained_from_the_start(search: Path) -> None:
    before, winner = hashes(search), ranked(search)[0]
    run = search.parent / f"faces-{winner:05d}"
    command = ["promote", "runs/faces", "--top", "1", "kimg=0.256", "eval.every_kimg=0.128", "--json"]
    result = call(*command)
    (one,) = told(result)["runs"]
    assert (one["run"], one["trial"], one["from_kimg"], one["kimg"]) == (str(run), winner, 0.128, 0.256)
    assert one["value"] <= one["trial_value"]
    assert one["checkpoint"] == str(run / "checkpoint_000000000256")
    assert told(result)["refused"] == []

    call("best", "runs/faces", "--to", "best", "--retrain", "kimg=0.256")
    retrained = search.parent / "faces-best"
    assert tensors(run) == tensors(retrained)
    assert len(tensors(run)) == 5
    assert newest_images(str(run)) == newest_images(str(retrained)) == 256

    # The trial is as it was, and its records and pictures are the run's first ones.
    assert hashes(search) == before
    assert [record["images"] for record in read_records(str(run))] == [64, 128, 192, 256]
    assert {"reals.png", "fakes_000000.064.png", "fakes_000000.256.png"} <= {
        file.name for file in (run / "samples").iterdir()
    }
    checks = list(audit_run(str(run), 9, 0, lambda _: None))
    assert [check for check in checks if not check.equal] == []
    assert sum(check.images for check in checks) >= 128  # what was trained after the promotion

    # The same command finds it finished; `train` goes on with it by its own configuration.
    after = hashes(run)
    assert "finished at 0.256 kimg" in call(*command).stdout
    assert {**hashes(run), "report.html": ""} == {**after, "report.html": ""}
    again = call("train", f"runs/{run.name}/config.yaml", "train.kimg=0.288")
    assert f"{run.name} finished at 0.288 kimg" in again.stdout


def test_a_dry_run_shows_what_would_be_done_and_does_nothing(search: Path) -> None:
    before = hashes(search.parent)
    settings = ["kimg=0.256", "scale.workers=2", "storage=elsewhere", "name=big"]
    result = call("promote", "runs/faces", *settings, "-n", "--json")
    assert hashes(search.parent) == before
    assert not Path("elsewhere").exists()
    first, second = told(result)["runs"]
    assert [first["trial"], second["trial"]] == ranked(search)
    assert first["run"] == str(Path.cwd() / "elsewhere" / f"big-{first['trial']:05d}")
    assert (first["from_kimg"], first["kimg"], first["begun"]) == (0.128, 0.256, False)
    assert first["changes"] == {"train.kimg": ["0.128", "0.256"], "scale.workers": ["1", "2"]}
    records = read_records(str(search / "trials" / f"{first['trial']:05d}"))
    assert first["value"] == min(record["fd_digits"] for record in records)
    rates = sorted(record["images_per_second"] for record in records)
    assert 128 / (2 * rates[-1]) <= 3600 * first["hours"] <= 128 / (2 * rates[0])
    assert re.search(r"train   0\.128 kimg, from 0\.128 to 0\.256, about .* times 2/1 workers", result.stdout)
    assert "scale.workers: 1 -> 2" in result.stdout
    assert result.stderr.splitlines() == [
        "note: trial 2 is passed over: it has failed (a gradient is not finite)",
        "note: --top 3: 2 trials have a measurement, and are taken",
    ]


class Killed(BaseException):
    pass


def test_a_kill_at_any_write_of_the_beginning_leaves_what_the_next_call_completes(
    search: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for trial in search.glob("trials/*"):
        write_folder(str(trial / transfer.FOLDER), transfer.KIND, [("source.json", b"{}")])
    write, calls = storage.write_bytes, 0
    monkeypatch.setattr(os, "fsync", lambda _: None)

    def promotion(name: str) -> tuple[Callable[[], object], Path]:
        one = make_plan(str(search), ["kimg=0.256", f"name={name}"], 1, None, []).runs[0]
        return lambda: one.begin(pytest.fail), Path(one.config.run_uri)

    def without_configuration(run: Path) -> dict[str, str]:
        return {name: text for name, text in hashes(run).items() if name != "config.yaml"}

    start, whole = promotion("whole")
    start()
    assert {"audit.jsonl", "best.json", "init/manifest.json", "promoted.json"} <= {*hashes(whole)}
    for at in range(len(hashes(whole))):
        start, run = promotion(f"killed{at}")
        calls = 0

        def write_until(uri: str, content: bytes, at: int = at) -> None:
            nonlocal calls
            calls += 1
            if calls > at:
                raise Killed
            write(uri, content)

        with monkeypatch.context() as patch:
            for module in ("gan_dist.core.storage", "gan_dist.core.storage.files"):
                patch.setattr(f"{module}.write_bytes", write_until)
            with pytest.raises(Killed):
                start()
        assert not (run / "config.yaml").exists()
        start()
        assert without_configuration(run) == without_configuration(whole)
        assert (run / "config.yaml").exists()


def test_a_damaged_checkpoint_is_passed_over_and_a_trial_without_one_is_refused(search: Path) -> None:
    best, second = ranked(search)
    for trial, number in ((best, 128), (second, 128), (second, 64)):
        flip_bit(search / "trials" / f"{trial:05d}" / f"checkpoint_{number:012d}")
    with pytest.raises(CheckpointError, match=f"trial {second} has no checkpoint that is whole") as caught:
        call("promote", "runs/faces", "kimg=0.16")
    assert caught.value.exit_code == 2
    run = search.parent / f"faces-{best:05d}"
    assert newest_images(str(run)) == 160
    origin = json.loads((run / "promoted.json").read_text())
    assert (origin["trial"], origin["images"]) == (best, 64)
    assert not (search.parent / f"faces-{second:05d}").exists()
    # What could be seen without reading the files is seen before anything is written.
    for file in (search / "trials" / f"{second:05d}").glob("checkpoint_*/generator.safetensors"):
        file.unlink()
    plan = make_plan(str(search), ["kimg=0.16", "name=other"], 2, None, [])
    assert [one.trial for one in plan.runs] == [best]
    assert list(plan.refused) == [second]


def test_a_run_that_fails_leaves_the_others_to_go_on(search: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    best, second = ranked(search)

    def first_fails(config: RunConfig, *_: object) -> object:
        if config.name.endswith(f"{best:05d}"):
            raise NonFiniteError("a gradient is not finite")
        return locally(config)

    monkeypatch.setattr("gan_dist.cluster.train.driver.run", first_fails)
    with pytest.raises(NonFiniteError):
        call("promote", "runs/faces", "kimg=0.16")
    assert newest_images(str(search.parent / f"faces-{best:05d}")) == 128
    assert newest_images(str(search.parent / f"faces-{second:05d}")) == 160


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["optim.g.lr=1", "kimg=9"], r"optim\.g\.lr cannot change.*train\.keep, train\.kimg"),
        (["train={kimg: 5, batch_size: 64}"], r"train\.batch_size cannot change"),
        (["trian.kimg=5"], r"trian\.kimg.*the nearest is train\.kimg"),
        (
            ["kimg=0.128"],
            r"trial \d: 0\.128 kimg are trained, .* leaves nothing to train; .* train\.kimg=0\.256",
        ),
        ([], r"train\.kimg=0\.128 leaves nothing to train"),
        (["kimg=1", "scale.workers=5"], r"trial \d.*train\.batch_size"),
        (["kimg=1", "eval.target=1e9"], r"has ended by eval\.target=1e\+09.*set eval\.target=null"),
        (["kimg=1", "storage=file/inside"], r"file/inside/faces-0000\d is a file, or in one"),
    ],
)
def test_what_cannot_be_promoted_is_said_before_anything_is_written(
    arguments: list[str], message: str, search: Path
) -> None:
    Path("file").write_text("")
    before = hashes(search.parent)
    with pytest.raises(GanDistError, match=message) as caught:
        call("promote", "runs/faces", *arguments)
    assert caught.value.exit_code == 2
    assert hashes(search.parent) == before


def test_only_searches_are_promoted_into_folders_of_their_own(search: Path) -> None:
    with pytest.raises(CheckpointError, match="is a run, not a search"):
        call("promote", f"{search}/trials/00000", "kimg=1")
    for nothing in ("runs/absent", f"runs/faces/trials/00000/{'checkpoint_000000000128'}"):
        with pytest.raises(CheckpointError, match="neither a search nor a run"):
            call("promote", nothing, "kimg=1")
    # A run of one's own that has the name already, and one of another search.
    run = search.parent / f"faces-{ranked(search)[0]:05d}"
    shutil.copytree(search / "trials" / "00000", run)
    with pytest.raises(GanDistError, match=r"is a run that was not promoted from trial .*name=") as caught:
        call("promote", "runs/faces", "kimg=1")
    assert caught.value.problems[0].keys == ("name",)
    shutil.rmtree(run)
    make_plan(str(search), ["kimg=0.256"], 1, None, []).runs[0].begin(pytest.fail)
    record = json.loads((search / "search.json").read_text())
    (search / "search.json").write_text(json.dumps({**record, "id": "other"}))
    with pytest.raises(GanDistError, match=r"goes on from trial \d of another search"):
        call("promote", "runs/faces", "kimg=1")


def test_one_process_works_on_a_search_or_a_promoted_run(search: Path) -> None:
    with lock.folder_lock(str(search)), pytest.raises(GanDistError, match="let the search end, or stop it"):
        call("promote", "runs/faces", "kimg=0.16")
    run = str(search.parent / f"faces-{ranked(search)[0]:05d}")
    with lock.folder_lock(run), pytest.raises(GanDistError, match="is being worked on by"):
        call("promote", "runs/faces", "kimg=0.16")


def test_an_interrupt_ends_the_command_after_the_checkpoint_of_the_run(
    search: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(config: RunConfig, *_: object) -> object:
        return train(config, LocalContext(config.run_uri), stop_at=160)

    monkeypatch.setattr("gan_dist.cluster.train.driver.run", interrupted)
    monkeypatch.setattr(sys, "argv", ["jobs/promote.py"])
    result = call("promote", "runs/faces", "--top", "2", "kimg=0.192", "--json")
    assert result.exit_code == INTERRUPTED
    assert [(one["trial"], one["kimg"]) for one in told(result)["runs"]] == [(ranked(search)[0], 0.16)]
    again = "python jobs/promote.py runs/faces --top 2 kimg=0.192"
    assert result.stderr.splitlines()[-2:] == ["go on with all of them by", f"  {again}"]
    # The second has its folder already, and the same command goes on with both.
    monkeypatch.setattr("gan_dist.cluster.train.driver.run", locally)
    result = call("promote", "runs/faces", "--top", "2", "kimg=0.192", "--json")
    assert [(one["from_kimg"], one["kimg"]) for one in told(result)["runs"]] == [(0.128, 0.192)] * 2


def test_the_order_is_that_of_the_means_over_seeds_and_a_damaged_release_is_left_out(search: Path) -> None:
    best, second = ranked(search)
    means = [{"trial": trial, "values": [value], "mean": value} for trial, value in ((second, 1), (best, 2))]
    (search / "replicates.json").write_text(json.dumps(means))
    trial = search / "trials" / f"{second:05d}"
    for release in trial.glob("best_*"):
        flip_bit(release)
    plan = make_plan(str(search), ["kimg=0.256"], 3, None, [])
    assert [one.trial for one in plan.runs] == [second, best]
    warned: list[str] = []
    plan.runs[0].begin(warned.append)
    assert [text.partition("; ")[2] for text in warned] == [
        f"faces-{second:05d} has no release until it measures a better value"
    ]
    assert not (search.parent / f"faces-{second:05d}" / "best.json").exists()


def test_a_job_with_keys_that_cannot_change_is_not_submitted(search: Path) -> None:
    with pytest.raises(GanDistError, match=r"optim\.g\.lr cannot change"):
        call("submit", "promote", str(search), "optim.g.lr=1")


def test_a_search_prints_the_command_that_trains_its_best_further(
    search: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["jobs/tune.py"])
    lines = call(
        "tune", "search-digits", *SMALL, f"storage={search.parent}", "name=faces"
    ).stdout.splitlines()
    at = lines.index("train the best further with")
    assert lines[at + 1] == "  python jobs/promote.py runs/faces --top 3 train.kimg=1.28"
    arguments = lines[at + 1].partition("jobs/promote.py ")[2].split()
    assert call("promote", *arguments, "--dry-run").exit_code == 0
