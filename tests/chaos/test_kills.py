"""Runs that are killed at random moments, by SIGKILL: what they have in the end, and what they lose."""

from __future__ import annotations

import multiprocessing
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gan_dist.artifacts.records import read_records
from gan_dist.config import RunConfig
from gan_dist.training import checkpoint as states
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from tests.chaos.conftest import Chaos
from tests.support.gloo import PRELOADED
from tests.unit.training.test_training import assert_same_bits, config, tensors, timeless

LENGTH = ["train.kimg=6.4", "eval.every_kimg=1.6", "train.checkpoint_every_s=0.2", "train.keep=2"]
LIFE_S = (0.05, 1.2)
"""Seconds after which a process is killed: from before its first image on."""


class _Context(LocalContext):
    """Keeps warnings, as of damaged checkpoints, in a file."""

    def warn(self, sentence: str) -> None:
        with (Path(self.run_uri) / "warnings").open("a") as file:
            file.write(f"{sentence}\n")


def _train(settings: RunConfig) -> None:
    torch.set_num_threads(1)
    train(settings, _Context(settings.run_uri))


def _start(target: Callable[..., None], *arguments: Any) -> Any:
    """Start a function in a process that has imported already what it needs."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    process = context.Process(target=target, args=arguments, daemon=True)
    process.start()
    return process


def recorded(settings: RunConfig) -> list[dict[str, object]]:
    """Return a run's records without times, and without the numbers of checkpoints that are written again."""
    records = timeless(read_records(settings.run_uri))
    return [one | {"checkpoint": str(one.get("checkpoint")).partition("-")[0]} for one in records]


def test_a_run_that_is_killed_anywhere_ends_with_the_bits_of_one_that_was_not(
    chaos: Chaos, tmp_path: Path
) -> None:
    undisturbed = config(tmp_path / "undisturbed", *LENGTH)
    whole = _start(_train, undisturbed)
    whole.join()
    assert whole.exitcode == 0
    expected, records = tensors(undisturbed), recorded(undisturbed)

    kills = runs = 0
    wanted = chaos.rounds(2, 200)
    while kills < wanted:
        runs += 1
        settings = config(tmp_path / f"run{runs}", *LENGTH)
        reached = 0
        while True:
            process = _start(_train, settings)
            if kills < wanted:
                process.join(chaos.random.uniform(*LIFE_S))
            else:
                process.join()
            if process.exitcode is None:
                os.kill(process.pid, signal.SIGKILL)
                process.join()
                kills += 1
            newest = states.newest_images(settings.run_uri)
            assert newest >= reached
            reached = newest
            if process.exitcode != -signal.SIGKILL:
                assert process.exitcode == 0
                break
        assert not (Path(settings.run_uri) / "warnings").exists()
        assert_same_bits(tensors(settings), expected)
        assert recorded(settings) == records
    chaos.keep(kills=kills, runs=runs, checkpoints_lost=0)
