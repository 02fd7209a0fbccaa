"""What people's hands know from other programs: -h, -n, and the shell's tab key."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gan_dist.cli import app

VERBS = sorted(getattr(typer.main.get_command(app), "commands"))  # noqa: B009  # click's group has it


@pytest.mark.parametrize("verb", [verb for verb in VERBS if verb != "bench"])
def test_h_is_help(verb: str) -> None:
    shown = [CliRunner().invoke(app, [verb, option]).stdout for option in ("-h", "--help")]
    assert shown[0] == shown[1]
    assert "--help" in shown[0]


def test_n_is_a_dry_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["train", "digits", "-n"])
    assert (done.exit_code, list(tmp_path.iterdir())) == (0, [])
    assert "# placement: 2 workers" in done.stdout


@pytest.mark.parametrize(
    ("typed", "completed"),
    [
        ("gan-dist pa", ["pack"]),
        ("gan-dist train di", ["digits", "dinner/"]),
        ("gan-dist tune [my", ["[my] own.yaml"]),
        ("gan-dist train digits optim.g.beta2", ["optim.g.beta2=", "optim.g.beta2_start="]),
    ],
)
def test_the_shell_completes_verbs_presets_files_and_keys(
    typed: str, completed: list[str], tmp_path: Path
) -> None:
    (tmp_path / "dinner").mkdir()
    (tmp_path / "[my] own.yaml").touch()
    asked = {"_GAN_DIST_COMPLETE": "complete_bash", "COMP_WORDS": typed}
    done = subprocess.run(
        [Path(sys.executable).with_name("gan-dist")],
        env={**os.environ, **asked, "COMP_CWORD": str(len(typed.split()) - 1)},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stdout.splitlines() == completed


def test_options_of_stylegans_train_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    images = "builtin://shapes?count=64&resolution=16"
    in_words = CliRunner().invoke(app, ["train", images, "storage=my runs", "train.kimg=4", "-n"])
    by_options = CliRunner().invoke(
        app, ["train", "--outdir", "my runs", "--data", images, "train.kimg=4", "-n"]
    )
    assert (in_words.exit_code, in_words.stdout) == (0, by_options.stdout)
    assert f"path: {tmp_path}/my runs" in in_words.stdout
    both = CliRunner().invoke(app, ["train", "shapes", "--data", images, "-n"])
    assert f"path: {images}" in both.stdout
    assert "name: shapes" in both.stdout
