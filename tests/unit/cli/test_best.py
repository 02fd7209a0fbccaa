"""The verb `best`: what it prints, what it refuses, and the winner trained again."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load
from typer.testing import CliRunner

import gan_dist
from gan_dist.artifacts.best import find_best, rank_runs
from gan_dist.artifacts.publish import copy_release
from gan_dist.artifacts.records import read_records
from gan_dist.cli import app
from gan_dist.cli.best import retraining
from gan_dist.config import RunConfig, load_config, to_yaml
from gan_dist.core.errors import ConfigError, GanDistError
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from tests.support.searches import (
    as_trial,
    files,
    record,
    trial_uri,
    write_run,
    write_search,
)
from tests.support.sources import best_release


def call(*arguments: str) -> tuple[list[str], str]:
    result = CliRunner().invoke(app, ["best", *arguments], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout.splitlines(), result.stderr


def test_the_verb_says_what_it_found_and_what_to_type_next(
    run_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "")  # prints commands alike wherever it is installed
    monkeypatch.setenv("HOME", str(tmp_path))
    home, search = tmp_path / "gan-dist", str(tmp_path / "gan-dist" / "runs" / "faces")
    write_search(search)
    as_trial(run_uri, search, 12)
    write_run(trial_uri(search, 3), [record(64, 0.5)])
    lines, warned = call("runs/faces", "--to", "out")
    job = "  ray job submit --working-dir . -- python jobs"
    assert lines == [
        "fd_digits 1 after 0 kimg, of trial 12 among 2",
        "  release  gan-dist/out",
        "go on with",
        f"{job}/sample.py gan-dist/out",
        f"{job}/evaluate.py gan-dist/out",
        f"{job}/train.py gan-dist/out/config.yaml name=faces-best storage=gan-dist/runs train.kimg=320",
    ]
    assert warned.startswith("warning: fd_digits 0.5 of trial 00003 after 0.064 kimg is passed over: ")
    lines, _ = call("runs/faces", "--to", "out", "--json")
    assert lines[1] == "  release  gan-dist/out, where it was already"
    assert json.loads(lines[-1]) == {
        "dir": str(home / "out"),
        "metric": "fd_digits",
        "value": 1.0,
        "images": 0,
        "trial": 12,
        "run": f"{search}/trials/00012",
    }


def test_the_verb_only_tells_where_no_folder_is_given(run_uri: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["jobs/best.py"])
    before = sorted(Path(run_uri).rglob("*"))
    lines, _ = call(run_uri, "--json")
    told = json.loads(lines[-1])
    release = f"{run_uri}/best_000000000000"
    assert (told["dir"], told["trial"], told["run"]) == (release, None, run_uri)
    assert lines[:-1] == [
        "fd_digits 1 after 0 kimg",
        f"  release  {release}",
        "go on with",
        f"  python jobs/sample.py {release}",
        f"  python jobs/evaluate.py {release}",
        f"  python jobs/best.py {run_uri} --to releases/run",
    ]
    assert sorted(Path(run_uri).rglob("*")) == before


@pytest.mark.parametrize("verb", ["sample", "evaluate"])
def test_what_it_copies_is_a_source_of_other_verbs(
    verb: str, run_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    call(run_uri, "--to", "out")
    arguments = ["--n", "4"] if verb == "sample" else ["--samples", "64"]
    result = CliRunner().invoke(app, [verb, "out", *arguments], catch_exceptions=False)
    assert result.exit_code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["kimg=5"], "kimg=5: settings are for --retrain; add it, or leave them out"),
        (["--retrain"], "--retrain needs --to DIR"),
        (["--to", "out", "--retrain", "trian.kimg=5"], r"trian\.kimg.*the nearest is train\.kimg"),
        (["--to", "."], "holds mine.txt, and no release that"),
    ],
)
def test_what_the_verb_cannot_do_is_said(
    arguments: list[str], message: str, run_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "mine.txt").write_text("")
    with pytest.raises(GanDistError, match=message) as caught:
        CliRunner().invoke(app, ["best", run_uri, *arguments], catch_exceptions=False)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("setting", ["trian.kimg=5", "train.batch_size=0", "data.path=nowhere"])
def test_nothing_is_copied_where_the_retraining_is_refused(
    setting: str, run_uri: str, tmp_path: Path
) -> None:
    command = ["best", run_uri, "--to", str(tmp_path / "out"), "--retrain", setting]
    with pytest.raises(GanDistError) as caught:
        CliRunner().invoke(app, command, catch_exceptions=False)
    assert caught.value.exit_code == 2
    assert list(tmp_path.iterdir()) == []


def test_retraining_is_the_winners_configuration_as_a_run_of_its_own(run_uri: str, tmp_path: Path) -> None:
    search, to = str(tmp_path / "searches" / "faces"), str(tmp_path / "out")
    write_search(search)
    as_trial(run_uri, search, 12)
    found = find_best(search)
    copy_release(found, to)
    config, arguments = retraining(found, to, ["kimg=1000", "scale.workers=8"])
    kept_in = f"{tmp_path}/searches"
    assert config.run_uri == f"{kept_in}/faces-best"
    assert (config.train.kimg, config.scale.workers) == (1000, 8)
    same = found.config.model_copy(
        update={
            "name": "faces-best",
            "storage": found.config.storage.model_copy(update={"path": kept_in}),
            "train": found.config.train.model_copy(update={"kimg": 1000}),
            "scale": found.config.scale.model_copy(update={"workers": 8}),
        }
    )
    assert to_yaml(config) == to_yaml(same)
    # The printed command is the same run.
    assert load_config(arguments[0], arguments[1:]) == config
    assert retraining(found, to, ["name=other"])[0].name == "other"
    with pytest.raises(ConfigError, match="kimgs"):
        retraining(found, to, ["kimgs=1000"])


def test_retraining_trains_by_the_path_of_train(
    run_uri: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The loop is the real one; only Ray's part, which starts it in workers, is left out."""
    search = str(tmp_path / "faces")
    write_search(search)
    as_trial(run_uri, search, 0)

    def without_ray(config: RunConfig, _: object) -> object:
        torch.set_num_threads(1)
        return train(config, LocalContext(config.run_uri))

    monkeypatch.setattr("gan_dist.cluster.train.driver.run", without_ray)
    settings = ["kimg=0.064", "train.batch_size=32", "eval.samples=64", "scale.workers=1"]
    command = [search, "--to", str(tmp_path / "out"), "--retrain", *settings, "--json"]
    lines, _ = call(*command)
    told = json.loads(lines[-1])
    assert (told["trial"], told["value"], told["dir"]) == (0, 1.0, str(tmp_path / "out"))
    assert told["retrained"]["run"] == f"{tmp_path}/faces-best"
    assert told["retrained"]["kimg"] == 0.064
    assert read_records(f"{tmp_path}/faces-best")[-1]["images"] == 64
    assert "continue it with" in lines
    # The same command again finds it finished.
    lines, _ = call(*command)
    assert "faces-best finished at 0.064 kimg" in lines
    assert find_best(f"{tmp_path}/faces-best").images == 64


def test_a_release_is_copied_with_its_discriminator_on_request(tmp_path: Path) -> None:
    uri, earlier = best_release(tmp_path / "runs")
    released = json.loads((Path(uri) / "best_000000000000/metrics.json").read_text())
    write_run(uri, [released])
    to = tmp_path / "release"
    call(uri, "--to", str(to))
    plain = files(to)
    assert "discriminator.safetensors" not in plain
    call(uri, "--to", str(to), "--with-discriminator")
    whole = files(to)
    assert load(whole["discriminator.safetensors"]).keys() == earlier.discriminator.state_dict().keys()
    assert gan_dist.load(str(to)).sample(1).shape == (1, 1, 16, 16)
    call(uri, "--to", str(to))
    assert files(to) == plain


def test_a_discriminator_that_was_never_written_cannot_be_copied(run_uri: str, tmp_path: Path) -> None:
    for arguments, said in (
        (
            [run_uri, "--to", f"{tmp_path}/to", "--with-discriminator"],
            "has none, since an earlier version",
        ),
        ([run_uri, "--with-discriminator"], "--with-discriminator needs --to DIR"),
    ):
        done = CliRunner().invoke(app, ["best", *arguments])
        assert isinstance(done.exception, GanDistError)
        assert said in str(done.exception)
    assert not (tmp_path / "to").exists()


def test_the_verb_prefers_what_it_is_told_among_the_front(run_uri: str, tmp_path: Path) -> None:
    """A trial counts with what it measured where its distance was lowest, which is what its release is."""
    search = str(tmp_path / "runs" / "trade")
    own = {"kid_digits": "min", "modes": "max", "loss_d": {"below": 2}}
    write_search(search, objectives=own)

    def measured(images: int, fd: float, kid: float, modes: float, loss: float = 1.0) -> dict[str, object]:
        return {**record(images, fd), "kid_digits": kid, "modes": modes, "loss_d": loss}

    for number, records in enumerate(
        [
            [measured(64, 5.0, 0.1, 3), measured(128, 6.0, 0.01, 9)],  # the later one has no release
            [measured(64, 4.0, 0.3, 7)],
            [measured(64, 3.0, 0.4, 6)],  # dominated, of the lowest distance
            [measured(64, 9.0, 0.01, 10, loss=2.5)],  # the constraint
            [{**record(64, 2.0), "kid_digits": None, "modes": 9}],
        ]
    ):
        write_run(trial_uri(search, number), records, records[0])
    assert [one.trial for one in rank_runs(search).best] == [0, 1, 2, 3]
    assert [one.trial for one in rank_runs(search, "modes").best][:2] == [1, 0]
    found = find_best(search, "modes")
    assert (found.metric, found.mode, found.value, found.trial) == ("modes", "max", 7, 1)
    lines, _ = call(search, "--prefer", "modes", "--json")
    assert lines[:2] == [
        "modes 7 after 0.064 kimg, of trial 1 among 5",
        "  all      kid_digits 0.3, modes 7, loss_d 1",
    ]
    assert json.loads(lines[-1])["values"] == {"kid_digits": 0.3, "modes": 7.0, "loss_d": 1.0}
    for source, name, message in [
        (search, "fd_digits", "the objectives are kid_digits, modes; give one of them"),
        (run_uri, "modes", "there are no objectives; leave it out"),
    ]:
        with pytest.raises(GanDistError, match=message):
            find_best(source, name)
    write_search(search, objectives={**own, "loss_d": {"below": 0}})
    assert "no trial has loss_d below 0; the nearest comes first" in find_best(search).warnings
