"""A run that is submitted to a cluster: its log, its metrics, and how it is stopped."""

from __future__ import annotations

import re
import shlex
import subprocess
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from tests.support.heads import BIN, CHATTER, ROOT, Head


@contextmanager
def scraped(address: str) -> Iterator[dict[str, set[str]]]:
    """Ask a metrics endpoint all the time; yields the tags with which each of our metrics was ever seen."""
    seen: dict[str, set[str]] = {}
    over = threading.Event()

    def ask() -> None:
        while not over.wait(0.3):
            with suppress(OSError):
                for line in (
                    urllib.request.urlopen(f"{address}/metrics", timeout=10).read().decode().splitlines()
                ):
                    if found := re.match(r"(ray_gan_dist_\w+)\{.*(rank=.*)\} [\d.e+-]+$", line):
                        seen.setdefault(found[1], set()).add(found[2])

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield seen
    finally:
        over.set()
        thread.join()


MINE = """\
data: {path: builtin://digits}
model: {name: dcgan, width: 4, latent_dim: 8}
train: {batch_size: 32, kimg: 100000}
eval: {every_kimg: 1, samples: 64}
log: {every_s: 0.5}
scale: {workers: 2}
"""


@pytest.mark.ray
@pytest.mark.slow
def test_a_submitted_job_trains_on_the_cluster_and_stopped_says_how_to_go_on(
    head: Head, tmp_path: Path
) -> None:
    (tmp_path / "mine.yaml").write_text(MINE)
    command = [str(BIN / "gan-dist"), "submit", "train", "mine.yaml", f"storage={head.bucket}/runs"]
    drawn = set(re.findall(r"ray_gan_dist_\w+", (ROOT / "jobs/cluster/grafana.json").read_text()))
    waiting = "ray_gan_dist_data_wait_ratio"
    log: list[str] = []
    with scraped(head.env["METRICS_ADDRESS"]) as seen:
        process = subprocess.Popen(
            command,
            env=head.env,
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout is not None
        deadline = time.monotonic() + 120
        for line in process.stdout:
            log.append(line.rstrip("\n"))
            shown = len([one for one in log if re.match(r"[\d.]+/100000\.0 kimg  .* images/s", one)])
            if shown >= 2 and (drawn <= seen.keys() and len(seen[waiting]) == 2):
                break
            assert time.monotonic() < deadline, (log, seen)
        (job,) = set(re.findall("raysubmit_[A-Za-z0-9]+", log[0]))
        stop = [str(BIN / "ray"), "job", "stop", job]
        subprocess.run(stop, env=head.env, check=True, capture_output=True)
        rest, _ = process.communicate(timeout=120)
    # What the dashboard draws is what a head exports, of every worker.
    assert set(seen) == drawn
    assert seen["ray_gan_dist_loss_d"] == {'rank="0",run="mine",trial=""'}
    assert {tags[:8] for tags in seen[waiting]} == {'rank="0"', 'rank="1"'}
    # Lines of progress now and then; of Ray there is what its job manager says before the run begins.
    assert [line for line in log if CHATTER.search(line) and "job_manager.py" not in line] == []

    said = "\n".join([*log, rest])
    assert process.returncode == 130, said
    lines = said.splitlines()
    assert lines[lines.index("continue it with") + 1].strip() == shlex.join(["gan-dist", *command[1:]])
    (reached,) = re.findall(r"mine stopped at ([\d.]+) kimg", said)
    assert float(reached) > 0
    assert f"checkpoint  {head.bucket}/runs/mine/checkpoint_" in said
