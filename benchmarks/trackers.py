"""What a tracker costs a run: none, one that hangs (it accepts and never answers), one that works, in turns.

The preset `digits` with one worker of one thread, a record every 100 images. A turn begins a tracker, waits
until it talks, and lets one of three runs go on. Each turn has all three, in another order; costs are medians
of ratios within turns. W&B works offline; MLflow's server is there where `make mlflow` has installed it.
"""

from __future__ import annotations

import os
import socket
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from gan_dist.artifacts import trackers
from gan_dist.artifacts.trackers import Trackers
from gan_dist.config import flatten, load_config
from gan_dist.training.checkpoint import newest_images
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from tests.support.mlflow import INSTALLED, mlflow_server

TURNS, KIMG = 6, 2.56
BEGINS_S = 12.0
"""Seconds in which the process of a tracker has imported its library, which is not what is measured."""


def run(*, quick: bool = False) -> dict[str, object]:
    """Return images a second by turn, and the share of them that each kind costs.

    A cost is of the time on the clock, and of the processor's time of the training process, which others that
    use the machine disturb less.
    """
    torch.set_num_threads(1)
    turns, kimg = (1, 0.64) if quick else (TURNS, KIMG)
    with TemporaryDirectory(prefix="gan-dist-bench-") as folder, ExitStack() as services:
        silent = services.enter_context(socket.create_server(("127.0.0.1", 0)))
        kinds = {"none": "", "hanging": f"http://127.0.0.1:{silent.getsockname()[1]}", "wandb": ""}
        if INSTALLED.exists():
            kinds["mlflow"] = services.enter_context(mlflow_server(Path(folder)))
        os.environ |= {"WANDB_MODE": "offline", "WANDB_DIR": folder}
        rates: dict[str, list[Rates]] = {kind: [] for kind in kinds}
        warnings: list[str] = []
        for kind in kinds:
            _turn(folder, kind, kinds[kind], kimg / 4, silent, warnings)
        for turn in range(turns):
            order = list(kinds)
            for kind in order[turn % len(order) :] + order[: turn % len(order)]:
                length = kimg / 4 + (turn + 1) * kimg
                rates[kind].append(_turn(folder, kind, kinds[kind], length, silent, warnings))
    costs = {
        f"{kind}_cost{name}": 1
        - statistics.median(b[which] / a[which] for a, b in zip(rates["none"], rates[kind], strict=True))
        for kind in kinds
        if kind != "none"
        for which, name in enumerate(("", "_of_processor"))
    }
    return {**costs, "images_per_second": rates, "warnings": warnings}


Rates = tuple[float, float]
"""Images a second of the clock, and of the processor's time of the training process."""


def _turn(
    folder: str, kind: str, address: str, kimg: float, silent: socket.socket, warnings: list[str]
) -> Rates:
    config = load_config(
        "digits",
        [
            *(
                f"name={kind}",
                f"storage={folder}",
                "eval.target=null",
                f"train.kimg={kimg}",
                "scale.workers=1",
            ),
            *("eval.every_kimg=1000", "eval.samples=64", "log.every_kimg=0.1", "data.cache=memory"),
        ],
    )
    names = {"none": [], "wandb": ["wandb"]}.get(kind, ["mlflow"])
    os.environ["MLFLOW_TRACKING_URI"] = address or "none"
    trackers.END_S = 1.0 if kind == "hanging" else 60.0
    with Trackers(names, config.run_uri, kind, None, warnings.append) as following:
        following.update("", "running", uri=config.run_uri, settings=flatten(config))
        with _met(names, silent if kind == "hanging" else None):
            before, began = newest_images(config.run_uri), time.process_time()
            result = train(config, LocalContext(config.run_uri))
            spent = time.process_time() - began
        following.update("", "interrupted")
    assert result.images_per_second is not None
    return result.images_per_second, (result.images - before) / spent


@contextmanager
def _met(names: list[str], silent: socket.socket | None) -> Iterator[None]:
    """Wait until a tracker's process has begun: its imports are not what is measured."""
    if silent is not None:
        connection, _ = silent.accept()
        with connection:
            yield
        return
    if names:
        time.sleep(BEGINS_S)
    yield
