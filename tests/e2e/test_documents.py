"""Every command of README.md and docs/, as a reader types it, with small networks and short runs."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest

from gan_dist.core import storage
from tests.support.commands import wait_until
from tests.support.documents import (
    python_blocks,
    saved_blocks,
    shell_lines,
    write_configurations,
    write_sources,
)
from tests.support.heads import ROOT, Head
from tests.support.hub import hub_server
from tests.support.interpreter import Interpreter, interpreter
from tests.support.serving import measured

PAGES = (
    *("README", "docs/sources", "docs/images", "docs/training", "docs/transfer", "docs/extend"),
    *("docs/report", "docs/audit", "docs/measuring", "docs/generators", "docs/expect", "docs/records"),
    *("docs/start", "docs/search", "docs/serving", "docs/cluster", "docs/install", "CONTRIBUTING"),
)
"""Those with commands, in an order in which each finds what the ones before have made."""
ELSEWHERE = {
    ".venv/bin/pre-commit install": "it changes the checkout",
    "docker build ": "it needs a container engine",
    "gan-dist best runs/search-digits --mixture 4 ": "tests/unit/artifacts/test_mixture.py, of longer runs",
    "gan-dist serve ": "tests/e2e/test_serving.py serves, with and without a token, and asks for images",
    "curl ": "the same",
    "gan-dist train cifar10 eval.inception_weights=": "CIFAR-10 and Inception's weights are downloads",
    "gan-dist train digits 'log.to=": "tests/unit/artifacts/test_trackers.py, with MLflow's server",
    "jobs/cluster/start.sh ": "tests/e2e/test_hosts.py, on hosts of their own",
    "optuna-dashboard ": "a program of its own, which is not installed",
    "pip install ": "tests/unit/test_packaging.py builds the wheel and installs it",
    "source .venv/bin/activate": "PATH has it here",
}
"""Beginnings of the commands that are not run here, and why. make only says what it would do."""
LISTS = ("gan_dist/ ", "jobs/ ", "cluster.yaml ", "tests/ ", "benchmarks/ ", "docs/ ", "tools/ ")
"""Beginnings of the lines of the README's list of folders."""
SMALL = (
    *("train.kimg=0.128", "eval.every_kimg=0.064", "eval.samples=64", "train.batch_size=32"),
    *("model.width=4", "model.max_width=8", "model.latent_dim=8"),
    *("scale.workers=1", "scale.gpus_per_worker=0"),
)
TINY = "model.blocks=1 model.group_width=4 train.batch_size=8 train.kimg=0.016 eval.every_kimg=0.008"
"""For networks of grouped convolutions, which take their time on CPUs."""
SMALLER = (
    (r"preset=celeba64|model.name=r3gan", f"{TINY} eval.extractor=random scale.cpus_per_worker=1"),
    (r"512x384", "data.resolution=32x24"),
    (r" tune ", "search.trials=2"),
    (r"search.scheduler=pbt", "search.perturb_kimg=0.064 search.concurrent=1"),
)
"""What else makes a command short, by what stands in it."""
REPLACED = (
    (r"(?<= train )shapes", "shapes 'data.path=builtin://shapes?count=64&resolution=16'"),
    (r"--n 50000", "--n 4"),
    (r"^(gan-dist evaluate .*)", r"\1 --samples 64"),
    (r"--workers 8 --gpus-per-worker 1", "--workers 1"),
    (r"--walk", "--frames 3 --walk"),
    (r"--like", "--steps 10 --like"),
    (r"@v1", "@main"),
    (r"search.budget.gpu_hours=40 ", ""),  # refused where there is no GPU
    (r"^(gan-dist doctor.*)", r"\1 --timeout 60"),
    (r"^make ", f"make -C {ROOT} --dry-run "),
    (r"^(tensorboard .*)", r"\1 --inspect"),
    (r"^(gan-dist submit train my.yaml .*|gan-dist submit --no-wait .*)", r"\1 --dry-run"),
    (r"^(gan-dist promote .*)", r"\1 train.kimg=0.256 scale.workers=1"),
)
PREPARED = (
    "gan-dist pack ~/faces s3://bucket/faces-test --resolution 8 --channels 1",
    "gan-dist pack s3://bucket/photos s3://bucket/photos64 --resolution 16",
)
"""What readers of the pages have done before."""


@dataclass
class Reader:
    """Somebody who types commands in a folder, and has a home, a bucket and a cluster."""

    folder: Path
    head: Head
    process: Interpreter
    done: set[str] = field(default_factory=set)

    def adapted(self, line: str) -> str:
        """Return a command that takes a second instead of hours, with the addresses that there are here."""
        line = line.replace("s3://bucket", self.head.bucket).replace("http://HEAD:8265", self.head.url)
        if re.search(r"gan-dist (submit (--no-wait )?)?(train|tune) ", line) and "--dry-run" not in line:
            more = [settings for pattern, settings in SMALLER if re.search(pattern, line)]
            line = " ".join([line, *SMALL, *more])
        for pattern, replacement in REPLACED:
            line = re.sub(pattern, replacement, line)
        return line

    def run(self, line: str) -> None:
        command = self.adapted(line)
        if command.startswith("gan-dist ") and " submit " not in command:
            words = [re.sub("^~", str(self.head.home), word) for word in shlex.split(command)[1:]]
            self.process.begin(words, self.head.env, self.folder)
            if "--serve" in words:
                wait_until(lambda: re.search("http://|^gan-dist:", self.process.printed()) is not None)
                self.process.interrupt()
            code, out = self.process.end()
        else:
            script = ["bash", "-ec", command]
            done = subprocess.run(
                script, env=self.head.env, cwd=self.folder, capture_output=True, text=True, timeout=300
            )
            code, out = done.returncode, done.stdout + done.stderr
        assert code == 0, f"{command}\n{out}"
        self.done.add(line)

    def run_python(self, code: str) -> None:
        self.process.begin(["-c", code], self.head.env, self.folder)
        ended, out = self.process.end()
        assert ended == 0, f"{code}\n{out}"


def lines_of(page: str) -> Iterator[str]:
    """Yield a page's commands but those that are not run here."""
    skipped = (*ELSEWHERE, *LISTS)
    yield from (line for line in shell_lines(ROOT / f"{page}.md") if not line.startswith(skipped))


def run_all(reader: Reader, lines: Sequence[str]) -> None:
    for line in lines:
        reader.run(line)


@pytest.mark.ray
@pytest.mark.slow
def test_every_command_works(head: Head, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    laptop, cluster = tmp_path / "laptop", tmp_path / "cluster"
    for folder in (laptop, cluster):
        folder.mkdir()
    write_sources(laptop, head.home, head.env["AWS_ENDPOINT_URL"], head.bucket[5:])
    write_configurations(laptop)
    write_configurations(cluster)
    for page in PAGES:
        for name, text in saved_blocks(ROOT / f"{page}.md"):
            (laptop / name).write_text(text)
    (laptop / "runs").mkdir()
    Path(measured(laptop, 0, 2.0)).rename(laptop / "runs/faces")
    for name, value in head.env.items():
        monkeypatch.setenv(name, value)
    storage.copy_tree(str(laptop / "runs/faces"), f"{head.bucket}/runs/faces")
    with hub_server() as hub, ThreadPoolExecutor(1) as pool:
        more = {"HF_ENDPOINT": hub.url, "HF_TOKEN": "hf_writes", "HF_HUB_DISABLE_XET": "1"}
        head = replace(head, env={**head.env, **more})
        with interpreter(tmp_path / "printed.txt", head.env) as process:
            typist = Reader(laptop, head, process)
            jobs = [line for page in PAGES for line in lines_of(page) if " submit " in line]
            submitted = pool.submit(run_all, Reader(cluster, head, process), jobs)
            run_all(typist, PREPARED)
            for page in PAGES:
                for line in lines_of(page):
                    if line in typist.done or line in jobs:
                        continue
                    if "s3://bucket/runs/search" in line:
                        submitted.result()
                    typist.run(line)
                for code in python_blocks(ROOT / f"{page}.md"):
                    typist.run_python(code)
            submitted.result()
