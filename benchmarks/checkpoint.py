"""What a checkpoint between evaluations costs the loop, with a bucket behind 50 ms of latency.

Rounds of training are timed without a checkpoint, and then from the moment at which one begins until it is
in the bucket: what these rounds take longer, the copy of the state in the loop's thread included, is its
cost. The S3 server and the proxy that delays it compute on the same cores as the training.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from statistics import median

import torch

from benchmarks.s3_bandwidth import LATENCY_S, slow_store
from gan_dist.config import RunConfig, load_config
from gan_dist.core import storage
from gan_dist.core.storage.hashed_folder import checkpoint_names
from gan_dist.data.batches.loader import Batch, open_configured
from gan_dist.training.checkpoint import new_state
from gan_dist.training.context import LocalContext
from gan_dist.training.evaluator import Evaluator
from gan_dist.training.preflight import image_shape
from gan_dist.training.recorder import Recorder
from gan_dist.training.step import Step
from tests.support.s3 import KEYS, make_bucket, s3_server

EVERY_S = 300.0
"""`train.checkpoint_every_s` as it is by default."""
SETTINGS = {
    "digits": ("digits", ["data.path=builtin://digits"], 3),
    "r3gan": (
        "cifar10",
        [
            "data.path=builtin://shapes?count=512&resolution=32",
            *("eval.extractor=random", "eval.samples=128", "train.batch_size=4", "train.precision=fp32"),
        ],
        2,
    ),
}
"""Preset, overrides, and how often its checkpoint is measured; the batch does not change the state's size."""


def run(*, quick: bool) -> dict[str, object]:
    """Return, for each state, its size, the seconds that it costs, and their share of 300 s; medians."""
    figures: dict[str, object] = {"latency_s": LATENCY_S, "every_s": EVERY_S}
    with s3_server() as url:
        os.environ.update({**KEYS, "AWS_ENDPOINT_URL": url})
        make_bucket(url, "bench")
        with slow_store(url, 0, 0) as (uri, _):
            for name, (preset, overrides, times) in SETTINGS.items():
                small = ["model.width=8", "model.max_width=8"] if quick else []
                config = load_config(preset, [f"name={name}", f"storage={uri}", *overrides, *small])
                figures[name] = _cost(config, 1 if quick else times)
    return figures


def _cost(config: RunConfig, times: int) -> dict[str, float]:
    """Return the medians over several checkpoints."""
    images = open_configured(config.data)
    shape = image_shape(config.data, config.model, images.manifest)
    context = LocalContext(config.run_uri)
    state = new_state(
        config.model,
        config.optim,
        shape,
        context.device,
        seed=config.seed,
        channels_last=config.train.channels_last,
    )
    step = Step(config, state, context)
    size = (config.train.batch_size, shape.channels, shape.resolution, shape.resolution)
    labels = torch.arange(size[0]) % shape.classes if shape.classes else None
    batch = Batch(torch.randint(0, 256, size, dtype=torch.uint8), labels)

    def one() -> None:
        scalars = step.discriminator_phase(batch) | step.generator_phase(batch)
        recorder.step(step.average_over_ranks(scalars, stop=False)[0], 0.0, measured=False)
        step.update_average()

    with Recorder(config, state, context, Evaluator(config, images, context), 10**9, 0) as recorder:
        _seconds(one, 3)
        measured = [_measure(one, recorder) for _ in range(times)]
    found = {key: median(each[key] for each in measured) for key in measured[0]}
    newest = storage.join(config.run_uri, checkpoint_names(config.run_uri)[0])
    sizes = [len(storage.read_bytes(storage.join(newest, name))) for name in storage.list_names(newest)]
    return {"mib": sum(sizes) / 2**20, **found, "share": found["cost_s"] / EVERY_S}


def _measure(one: Callable[[], None], recorder: Recorder) -> dict[str, float]:
    rounds = 5
    plain_s = _seconds(one, rounds) / rounds
    began = time.perf_counter()
    recorder.checkpoint()
    copied, rounds = time.perf_counter(), 0
    while recorder._background.is_busy():
        one()
        rounds += 1
    ended = time.perf_counter()
    # The load of a machine changes: compared with are the rounds before and after.
    plain_s = (plain_s + _seconds(one, 5) / 5) / 2
    return {
        "written_s": ended - began,
        "copy_s": copied - began,
        "round_s": plain_s,
        "cost_s": ended - began - rounds * plain_s,
    }


def _seconds(one: Callable[[], None], rounds: int) -> float:
    began = time.perf_counter()
    for _ in range(rounds):
        one()
    return time.perf_counter() - began
