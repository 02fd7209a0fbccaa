"""Writes a run's folder: records, samples, checkpoints, the best release; reports them to the context."""

from __future__ import annotations

import math
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import torch
from PIL.Image import Image

from gan_dist.artifacts import records
from gan_dist.config import RunConfig, to_yaml
from gan_dist.core import rng, storage
from gan_dist.core.images import image_grid, write_png
from gan_dist.core.storage.hashed_folder import checkpoint_names
from gan_dist.models import release
from gan_dist.models.generator import to_uint8
from gan_dist.training import checkpoint as states
from gan_dist.training.checkpoint import Best, TrainingState
from gan_dist.training.context import Context
from gan_dist.training.evaluator import Evaluator, Measurement
from gan_dist.training.progress import Progress

GRID = 64


@dataclass
class Recorder:
    """Records of a run: every rank calls it, rank 0 writes."""

    config: RunConfig
    state: TrainingState
    context: Context
    evaluator: Evaluator
    total: int
    """Length of the run in images."""
    quarantined: int
    """Images in damaged row groups."""
    value: float | None = field(default=None, init=False)
    """The last distance."""

    def __post_init__(self) -> None:
        self._run_uri, self._config_yaml = self.config.run_uri, to_yaml(self.config)
        self._scalars = {"loss_d": math.nan, "loss_g": math.nan}
        self._trained_s, self._trained_images, self._waited_s = 0.0, 0, 0.0
        self._first = self.context.rank == 0
        if self._first:
            self.context.before_writing()
            storage.write_bytes(storage.join(self._run_uri, release.CONFIG), self._config_yaml.encode())
            self._records = records.RecordWriter(self._run_uri, self.state.images)
        self._last_step, self._last_images = time.perf_counter(), self.state.images
        self._written_at = self._last_step

    @property
    def images_per_second(self) -> float:
        return self._trained_images / self._trained_s if self._trained_s else 0.0

    def step(self, scalars: dict[str, float], waited_s: float) -> None:
        """Record a round: the scalars of its phases, and the seconds of waiting for images."""
        now = time.perf_counter()
        self._trained_s += now - self._last_step
        self._trained_images += self.state.images - self._last_images
        self._last_step, self._last_images = now, self.state.images
        self._scalars = scalars
        self._waited_s += waited_s
        self._report_progress()

    def measured(self, found: Measurement) -> None:
        """Write the record, samples and checkpoint of a measurement, and the release if it is the best."""
        state = self.state
        self.value = value = found.distance
        better = state.best is None or value < state.best.value
        if better:
            state.best = Best(value, state.images)
        metrics = {**found.figures, **self.evaluator.settings}
        if self._first:
            self.context.before_writing()
            picture = self._write_samples()
            if better:
                release.write_best(
                    self._run_uri,
                    state.average,
                    shape=state.shape,
                    config_yaml=self._config_yaml,
                    record=self._record(metrics),
                    metric=self.evaluator.metric,
                    picture=picture,
                )
        self.checkpoint(metrics)
        self._report_progress()

    def checkpoint_due(self) -> bool:
        """Return whether the last checkpoint is `train.checkpoint_every_s` old; only rank 0 ever says so."""
        every_s = self.config.train.checkpoint_every_s
        return self._first and every_s is not None and time.perf_counter() - self._written_at >= every_s

    def checkpoint(self, metrics: dict[str, object], *, recorded: bool = True) -> None:
        """Write a checkpoint and, if `recorded`, its record.

        A checkpoint that the wall clock asks for is not recorded: the records of a run do not depend on time.
        """
        record = self._record(metrics)
        folder, name = None, ""
        if self._first:
            folder = Path(tempfile.mkdtemp(prefix="gan-dist-"))
            states.save(self.state, str(folder), self._config_yaml)
            self.context.before_writing()
            name = states.checkpoint_name(self.state.images, checkpoint_names(self._run_uri))
            if recorded:
                self._records.write({**record, "checkpoint": name})
        self.context.report(record, folder, name, self.config.train.keep)
        self._last_step = self._written_at = time.perf_counter()

    def _record(self, metrics: dict[str, object]) -> dict[str, object]:
        networks = {"d": self.state.discriminator, "g": self.state.generator}
        return {
            "images": self.state.images,
            "kimg": self.state.images / 1000,
            **self._scalars,
            **{
                f"weight_norm_{name}": float(torch.nn.utils.get_total_norm(list(network.parameters())))
                for name, network in networks.items()
            },
            "images_per_second": self.images_per_second,
            "quarantined": self.quarantined,
            **metrics,
        }

    def close(self) -> None:
        if self._first:
            self._records.close()

    def _write_samples(self) -> Image:
        """Write the grid of images of latents that never change, and return it."""
        state = self.state
        latents = rng.normal((GRID, state.average.latent_dim), self.config.seed, "latents-grid")
        device, classes = self.context.device, state.shape.classes
        labels = torch.arange(GRID, device=device) * classes // GRID if classes else None
        with torch.no_grad():
            picture = image_grid(to_uint8(state.average(latents.to(device), labels)))
        name = f"fakes_{state.images / 1000:010.3f}.png"
        write_png(storage.join(self._run_uri, "samples", name), picture)
        return picture

    def _report_progress(self) -> None:
        best = self.state.best
        progress = Progress(
            images=self.state.images,
            total_images=self.total,
            loss_d=self._scalars["loss_d"],
            loss_g=self._scalars["loss_g"],
            metric=self.evaluator.metric,
            value=self.value,
            best=best.value if best else None,
            waited_s=self._waited_s,
        )
        self.context.progress(progress)
