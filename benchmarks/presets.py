"""Parameters and arithmetic of the presets: `python -m benchmarks presets`.

A preset's networks are built at their published sizes and trained for a few rounds, with few images of the
preset's resolution. What a round computes for an image does not depend on the set, the batch or the machine;
rounds with and without lazy penalties count as often as they come.
"""

from __future__ import annotations

import math

import torch

from gan_dist.config import RunConfig, load_config, preset_names
from gan_dist.data.batches.loader import Batch
from gan_dist.models.generator import ImageShape
from gan_dist.training.context import LocalContext
from gan_dist.training.flops import FlopCounter
from gan_dist.training.state import TrainingState, new_state
from gan_dist.training.step import Step

RESOLUTIONS = {"celeba64": 64, "cifar10": 32, "ffhq64": 64, "ffhq256": 256, "few-shot": 256}
RESOLUTIONS |= {"imagenet64": 64, "stylegan2-ffhq256": 256, "shapes": 64}
"""Edges in pixels of the images that presets are for; of the built-in digits it is 8."""
CLASSES = {"cifar10": 10, "imagenet64": 1000}
QUICK = ("digits", "stylegan2-digits")


def run(*, quick: bool = False) -> dict[str, object]:
    """Return by preset: parameters of both networks, operations of an image trained with, kimg of a run."""
    figures: dict[str, object] = {}
    for name in QUICK if quick else preset_names():
        config = _config(name)
        state, batch = _begin(name, config)
        figures[name] = {
            "generator_parameters": sum(weights.numel() for weights in state.generator.parameters()),
            "discriminator_parameters": sum(weights.numel() for weights in state.discriminator.parameters()),
            "gflop_per_image": _operations(state, config, batch) / 1e9,
            "kimg": config.train.kimg,
            "batch_size": load_config(name).train.batch_size,
        }
    return figures


def _config(name: str) -> RunConfig:
    preset = load_config(name)
    images = max(preset.model.pack, 8 if preset.model.name == "stylegan2" else 2)
    few = [f"train.batch_size={images}", "train.accumulate=1", "train.precision=fp32", "train.compile=never"]
    return load_config(name, [*few, "scale.workers=1", "scale.gpus_per_worker=0", "eval.extractor=random"])


def _begin(name: str, config: RunConfig) -> tuple[TrainingState, Batch]:
    channels = 1 if name in ("digits", "search-digits", "stylegan2-digits") else 3
    shape = ImageShape(RESOLUTIONS.get(name, 8), channels, CLASSES.get(name, 0))
    state = new_state(config.model, config.optim, shape, torch.device("cpu"), seed=0, channels_last=True)
    count = config.train.batch_size
    pixels = torch.randint(0, 256, (count, channels, shape.size.height, shape.size.width), dtype=torch.uint8)
    return state, Batch(pixels, torch.zeros(count, dtype=torch.int64) if shape.classes else None)


def _operations(state: TrainingState, config: RunConfig, batch: Batch) -> float:
    """Return the operations of an image, over the rounds until all penalties come together again."""
    loss, count = config.loss, config.train.batch_size
    lazy = [loss.penalty_every if loss.penalised else 1, loss.path_length_every if loss.path_length else 1]
    rounds = range(math.lcm(*lazy))
    due = [tuple(number % every == 0 for every in lazy) for number in rounds]
    step = Step(config, state, LocalContext("unused", device=torch.device("cpu")))
    total = sum(
        due.count(kind) * _round(step, state, due.index(kind) * count, batch) for kind in dict.fromkeys(due)
    )
    return total / (len(rounds) * count)


def _round(step: Step, state: TrainingState, images: int, batch: Batch) -> int:
    """Return the operations of the round after `images` images."""
    state.images = images
    counter = FlopCounter()
    counter.enter()
    try:
        step.discriminator_phase(batch)
        step.generator_phase(batch)
    finally:
        counter.exit()
    return counter.total
