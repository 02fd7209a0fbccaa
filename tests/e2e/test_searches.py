"""A search as a user runs it: killed and continued, and its best taken away."""

from __future__ import annotations

import json
import random
import re
import signal
import subprocess
import time
from pathlib import Path

import pytest
from optuna.study import load_study
from optuna.trial import FrozenTrial, TrialState

from gan_dist.artifacts.records import read_records
from gan_dist.cli.promotion import make_plan
from gan_dist.core import storage
from gan_dist.search.study_storage import study_storage
from gan_dist.training.checkpoint import newest_images
from tests.support.heads import BIN, Head, environment, gan_dist, gan_dist_here

TRIALS = 8
SEARCH = [
    *(
        "tune",
        "search-digits",
        "model.width=4",
        "model.max_width=8",
        "train.batch_size=32",
        "eval.samples=64",
    ),
    *("train.kimg=1.92", "eval.every_kimg=0.192", f"search.trials={TRIALS}", "--json"),
]


def trials_of(folder: Path | str) -> list[FrozenTrial]:
    database = study_storage(str(folder), None)
    return load_study(study_name="search-digits", storage=database).get_trials()


def curve(folder: Path | str, number: int) -> dict[int, float]:
    records = read_records(storage.join(str(folder), "trials", f"{number:05d}"))
    return {record["images"]: record["fd_digits"] for record in records if "fd_digits" in record}


@pytest.mark.ray
@pytest.mark.soak
@pytest.mark.parametrize("kills", [2, 10])
def test_a_search_that_is_killed_loses_and_doubles_nothing(
    kills: int,
    tmp_path: Path,
    ray_folder: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def here(*arguments: str) -> tuple[int, str, str]:
        return gan_dist_here(*arguments, cwd=tmp_path, capsys=capsys, monkeypatch=monkeypatch)

    draws = random.Random(kills)
    folder = tmp_path / "runs/search-digits"
    ended: dict[int, FrozenTrial] = {}
    for _ in range(kills):
        process = subprocess.Popen(
            [str(BIN / "gan-dist"), *SEARCH],
            env=environment(ray_folder),
            cwd=tmp_path,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        # From before the study is there to some trials later.
        time.sleep(draws.uniform(3, 20))
        process.send_signal(signal.SIGKILL)
        process.wait()
        if not (folder / "study.journal").exists():
            continue
        for trial in trials_of(folder):
            # What had ended is as it was: it was not run again.
            if trial.number in ended:
                assert trial == ended[trial.number]
            elif trial.state.is_finished():
                ended[trial.number] = trial

    done = gan_dist(*SEARCH, env=environment(ray_folder), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert result["trials"] == TRIALS
    trials = trials_of(folder)
    assert [trial.number for trial in trials] == list(range(TRIALS))
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        assert trial.intermediate_values == curve(folder, trial.number)
    assert {number: trial for number, trial in enumerate(trials) if number in ended} == ended
    assert len(list((folder / "trials").iterdir())) == TRIALS

    # The best is in hand without a cluster, and is the lowest of all that was recorded.
    lowest = min(value for trial in trials for value in trial.intermediate_values.values())
    assert result["best"]["value"] == lowest
    assert Path(result["best"]["checkpoint"], "generator.safetensors").exists()
    code, out, err = here("best", str(folder), "--to", "best", "--json")
    assert code == 0, err
    assert json.loads(out.splitlines()[-1])["value"] == lowest
    code, _, err = here("sample", "best", "--n", "4")
    assert code == 0, err


@pytest.mark.ray
@pytest.mark.slow
def test_a_search_in_a_bucket_is_killed_and_continued_and_its_best_taken_from_there(
    head: Head,
    bucket: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    env = {**head.env, "RAY_ADDRESS": head.address}
    folder = storage.join(bucket, "runs", "search-digits")
    command = [*SEARCH, f"storage={bucket}/runs", "train.kimg=0.96"]
    process = subprocess.Popen(
        [str(BIN / "gan-dist"), *command, "search.trials=1000"],
        env=env,
        cwd=tmp_path,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    said = []
    for line in process.stderr:
        said.append(line)
        if re.match(r"trial \d+ (complete|stopped)", line):
            break
    else:
        pytest.fail("".join(said))
    # One search has one driver, which the bucket tells.
    second = [*command, "search.trials=1000"]
    code, out, err = gan_dist_here(*second, cwd=tmp_path, capsys=capsys, monkeypatch=monkeypatch)
    assert (code, out) == (2, "")
    assert f"is being worked on by process {process.pid} on" in err
    process.send_signal(signal.SIGKILL)
    process.wait()
    begun = trials_of(folder)
    ended = {trial.number: trial for trial in begun if trial.state.is_finished()}
    assert ended

    count = len(begun) + 1
    done = gan_dist(*command, f"search.trials={count}", env=env, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "waiting" not in done.stderr  # it is known at once that the first is gone
    trials = trials_of(folder)
    assert {number: trial for number, trial in enumerate(trials) if number in ended} == ended
    assert [trial.number for trial in trials] == list(range(count))
    assert {trial.state for trial in trials} <= {TrialState.COMPLETE, TrialState.PRUNED}
    for trial in trials:
        assert trial.intermediate_values == curve(folder, trial.number)
    names = ["config.yaml", "forecast.json", "search.json", "spent.json", "study.journal", "trials"]
    assert storage.list_names(folder) == names
    assert storage.list_names(storage.join(folder, "trials")) == [f"{n:05d}" for n in range(count)]
    best = ["best", folder, "--to", "best", "--json"]
    code, out, err = gan_dist_here(*best, cwd=tmp_path, capsys=capsys, monkeypatch=monkeypatch)
    assert code == 0, err
    lowest = min(value for trial in trials for value in trial.intermediate_values.values())
    assert json.loads(out.splitlines()[-1])["value"] == lowest
    assert (tmp_path / "best" / "generator.safetensors").exists()

    # What a trial goes on from is copied within the bucket.
    plan = make_plan(folder, ["train.kimg=1.92", f"storage={bucket}/promoted"], 1, None, [])
    (one,) = plan.runs
    origin = one.begin(pytest.fail)
    assert one.origin() == origin
    assert newest_images(one.config.run_uri) == origin.images > 0
    assert read_records(one.config.run_uri) == read_records(one.trial_uri)
