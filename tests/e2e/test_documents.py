"""The commands of README.md and docs/start.md, in their order, as a reader types them."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.support.documents import shell_lines
from tests.support.heads import ROOT, Head, gan_dist_here
from tests.support.s3 import put_object

SHORT = ["train.kimg=0.128", "eval.every_kimg=0.064", "eval.samples=64", "train.batch_size=32"]
SHORT += ["model.width=4", "model.max_width=8", "model.latent_dim=8", "data.augment=none"]
ELSEWHERE = {
    "make demo": "it is what the run of the digits in tests/e2e/test_commands.py is a short form of",
    "make test": "this",
    "source .venv/bin/activate": "PATH has it here",
    "export RAY_AUTH_MODE=token RAY_API_SERVER_ADDRESS=http://HEAD:8265": "the test's head has other ports",
    "jobs/cluster/start.sh head": "tests/e2e/test_hosts.py, on hosts of their own",
    "jobs/cluster/start.sh worker HEAD:6379": "tests/e2e/test_hosts.py",
}
"""Commands that are not run here, and why."""
WITHOUT_RAY = ("gan-dist sample ", "gan-dist report ", "gan-dist best runs/")
"""Commands that run in this process, which has imported already what they need."""
FOLDERS = ("gan_dist/ ", "jobs/ ", "cluster.yaml ", "tests/ ", "benchmarks/ ", "docs/ ", "tools/ ")
"""Beginnings of the lines of the README's list of folders."""


def shortened(line: str, bucket: str) -> str:
    """Return a command that takes seconds instead of minutes, on a bucket that exists."""
    line = line.replace("s3://bucket", bucket)
    if re.match(r"gan-dist (submit )?(train|tune) ", line) and not line.endswith("--dry-run"):
        return f"{line} {shlex.join(SHORT)}{' search.trials=1' if ' tune ' in line else ''}"
    if line.startswith("gan-dist promote "):
        return f"{line} train.kimg=0.256"
    if line.startswith("tensorboard"):
        return f"{line} --inspect"
    return line


@pytest.fixture
def photos(head: Head) -> str:
    """Pictures in the home folder and in the bucket; returns the bucket."""
    draws = np.random.default_rng(0)
    (head.home / "photos").mkdir()
    for number in range(64):
        file = head.home / f"photos/{number:03d}.png"
        Image.fromarray(draws.integers(0, 256, (20, 24, 3), np.uint8)).save(file)
        put_object(head.env["AWS_ENDPOINT_URL"], f"{head.bucket[5:]}/photos/{file.name}", file.read_bytes())
    return head.bucket


@pytest.mark.ray
@pytest.mark.slow
def test_every_command_works(
    head: Head,
    photos: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name, value in {**head.env, "RAY_ADDRESS": head.address}.items():
        monkeypatch.setenv(name, value)
    seen: dict[str, str] = {}
    for page in ("README.md", "docs/start.md"):
        for line in shell_lines(ROOT / page):
            if line in ELSEWHERE or line in seen or line.startswith(FOLDERS):
                continue
            command = shortened(line, photos)
            if command.startswith(WITHOUT_RAY):
                arguments = [str(Path(word).expanduser()) for word in shlex.split(command)[1:]]
                code, out, err = gan_dist_here(
                    *arguments, cwd=tmp_path, capsys=capsys, monkeypatch=monkeypatch
                )
            else:
                env = {**os.environ}
                if "submit" in command:  # with another RAY_ADDRESS, which would win
                    del env["RAY_ADDRESS"]
                done = subprocess.run(
                    ["bash", "-c", command],
                    env=env,
                    cwd=tmp_path,
                    capture_output=True,
                    text=True,
                    timeout=300,
                )
                code, out, err = done.returncode, done.stdout, done.stderr
            assert code == 0, f"{command}\n{out}\n{err}"
            seen[line] = out
    assert "photos finished at 0.128 kimg" in seen["gan-dist train ~/photos"]
    for made in ("grid.png", "photos.html", "singles/0000000042.png", "best.png", "best/README.md"):
        assert (tmp_path / made).exists(), made
