"""What a checkpoint between evaluations costs the loop, with a bucket behind 50 ms of latency.

The loop waits for a copy of the state. A thread serialises, hashes and uploads it; that takes from the
training no more than the CPU time of the process, in which nothing else happens meanwhile. The cost is the
sum of both, as if there were one core; the S3 server and the proxy that delays it are processes of their own.
"""

from __future__ import annotations

import os
import time
from statistics import median

import torch

from benchmarks.s3_bandwidth import LATENCY_S, slow_store
from gan_dist.config import RunConfig, load_config
from gan_dist.core import storage
from gan_dist.core.storage.hashed_folder import checkpoint_names
from gan_dist.data.batches.loader import open_configured
from gan_dist.training.checkpoint import Loaded
from gan_dist.training.context import LocalContext
from gan_dist.training.evaluator import Evaluator
from gan_dist.training.preflight import image_shape
from gan_dist.training.recorder import Recorder
from gan_dist.training.state import TrainingState, new_state
from tests.support.s3 import KEYS, make_bucket, s3_server

EVERY_S = 300.0
"""`train.checkpoint_every_s` as it is by default."""
STATES: dict[str, tuple[list[str], int]] = {
    "digits": ([], 5),
    "cifar10": (["data.path=builtin://digits", "data.resolution=32", "model.width=192"], 5),
    "ffhq256": (["data.path=builtin://digits", "data.resolution=256", "data.cache=memory"], 2),
}
"""Presets whose networks are measured, overrides, and how often: the last two are R3GAN's."""


def run(*, quick: bool) -> dict[str, object]:
    """Return, for each state, its size, the seconds that it costs, and their share of 300 s; medians."""
    figures: dict[str, object] = {"latency_s": LATENCY_S, "every_s": EVERY_S}
    small = ["model.width=8", "model.max_width=8"] if quick else []
    with s3_server() as url:
        os.environ.update({**KEYS, "AWS_ENDPOINT_URL": url})
        make_bucket(url, "bench")
        with slow_store(url, 0, 0) as (uri, _):
            for name, (overrides, times) in STATES.items():
                settings = [f"name={name}", f"storage={uri}", "eval.extractor=digits", *overrides, *small]
                settings += ["train.keep=1"]
                figures[name] = _cost(load_config(name, settings), 1 if quick else times)
    return figures


def _cost(config: RunConfig, times: int) -> dict[str, float]:
    """Return the medians over several checkpoints."""
    images, context = open_configured(config.data), LocalContext(config.run_uri)
    state = new_state(
        config.model,
        config.optim,
        image_shape(config.data, config.model, images.manifest),
        context.device,
        seed=config.seed,
        channels_last=config.train.channels_last,
    )
    _fill(state)
    with Recorder(
        config, state, context, Evaluator(config, images, context), "", 10**9, 0, Loaded("", {})
    ) as recorder:
        measured = [_measure(recorder) for _ in range(times)]
    found = {key: median(each[key] for each in measured) for key in measured[0]}
    newest = storage.join(config.run_uri, checkpoint_names(config.run_uri)[0])
    sizes = [len(storage.read_bytes(storage.join(newest, name))) for name in storage.list_names(newest)]
    cost_s = found["copy_s"] + found["writing_cpu_s"]
    return {"mib": sum(sizes) / 2**20, **found, "cost_s": cost_s, "share": cost_s / EVERY_S}


def _fill(state: TrainingState) -> None:
    """Give the optimizers the averages that they have after a step."""
    for optimizer in (state.optimizer_g, state.optimizer_d):
        for group in optimizer.param_groups:
            for weight in group["params"]:
                weight.grad = torch.zeros_like(weight)
        optimizer.step()
        optimizer.zero_grad()


def _measure(recorder: Recorder) -> dict[str, float]:
    began = time.perf_counter()
    recorder.checkpoint()
    copied, cpu = time.perf_counter(), time.process_time()
    recorder._writer.wait()
    ended = time.perf_counter()
    return {
        "copy_s": copied - began,
        "writing_s": ended - copied,
        "writing_cpu_s": time.process_time() - cpu,
    }
