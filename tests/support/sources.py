"""Runs, checkpoints and releases that others begin with, without training."""

from __future__ import annotations

from pathlib import Path

import torch
from PIL import Image

from gan_dist.config import RunConfig, load_config, to_yaml
from gan_dist.core import rng
from gan_dist.models import release
from gan_dist.models.generator import ImageShape
from gan_dist.training.checkpoint import Snapshot
from gan_dist.training.state import TrainingState, new_state

SMALL = [
    *("model.name=dcgan", "model.width=4", "model.max_width=null", "model.latent_dim=8", "scale.workers=1"),
    *("data.cache=memory", "train.batch_size=32", "eval.samples=64", "data.resolution=16"),
    *("eval.every_kimg=0.064", "train.kimg=0.128", "train.checkpoint_every_s=null", "eval.target=null"),
]


def config(root: Path, *overrides: str) -> RunConfig:
    """Return a small run of digits at 16x16 in a folder."""
    return load_config("digits", [f"storage={root}", "name=run", *SMALL, *overrides])


def fresh(settings: RunConfig, classes: int = 10, channels: int = 1) -> TrainingState:
    """Return the state of a run before its first image."""
    shape = ImageShape(16, channels, classes if settings.model.conditional else 0)
    return new_state(
        settings.model,
        settings.optim,
        shape,
        torch.device("cpu"),
        seed=settings.seed,
        channels_last=settings.train.channels_last,
        freeze_d=settings.init.freeze_d,
    )


def state_of(settings: RunConfig, classes: int = 10, channels: int = 1) -> TrainingState:
    """Return the state of a run before its first image, in which all networks differ."""
    state = fresh(settings, classes, channels)
    for name, weights in state.average.state_dict().items():
        if weights.is_floating_point():
            weights += 0.01 * rng.normal(tuple(weights.shape), 1, name)
    return state


def checkpoint(folder: Path, *overrides: str, classes: int = 10, channels: int = 1) -> TrainingState:
    """Write the checkpoint of a run of seed 7 that has trained nothing; return its state."""
    settings = config(folder, "seed=7", *overrides)
    state = state_of(settings, classes, channels)
    Snapshot(state).save(str(folder), to_yaml(settings))
    return state


def best_release(root: Path, *overrides: str, discriminator: bool = True) -> tuple[str, TrainingState]:
    """Write the best release of a run; return the run's folder and its state."""
    settings = config(root, "seed=7", *overrides)
    state = state_of(settings)
    release.best_writer(
        settings.run_uri,
        state.average,
        discriminator=state.discriminator if discriminator else None,
        shape=state.shape,
        config_yaml=to_yaml(settings),
        record={"images": 0, "fd_digits": 1.0},
        metric="fd_digits",
        picture=Image.new("L", (8, 8)),
    )()
    return settings.run_uri, state
