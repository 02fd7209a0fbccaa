"""Writes a run's folder: records, samples, checkpoints, the best release; reports them to the context."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import torch
from PIL.Image import Image

from gan_dist.artifacts import records
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


class Recorder:
    """Records of a run: every rank calls it, rank 0 writes.

    Args:
        run_uri: Folder of the run.
        config_yaml: The run's configuration, as YAML.
        state: The run.
        context: This process.
        evaluator: Names the metric and its settings.
        seed: Of the sample latents.
        total: Length of the run in images.
        quarantined: Images in damaged row groups.
    """

    def __init__(
        self,
        run_uri: str,
        config_yaml: str,
        state: TrainingState,
        context: Context,
        evaluator: Evaluator,
        *,
        seed: int,
        total: int,
        quarantined: int,
    ) -> None:
        self.value: float | None = None
        """The last distance."""
        self._run_uri, self._config_yaml = run_uri, config_yaml
        self._seed = seed
        self._total = total
        self._quarantined = quarantined
        self._state = state
        self._context = context
        self._metric = evaluator.metric
        self._settings = evaluator.settings
        self._scalars = {"loss_d": float("nan"), "loss_g": float("nan")}
        self._trained_s = 0.0
        self._waited_s = 0.0
        self._trained_images = 0
        self._first = context.rank == 0
        if self._first:
            context.before_writing()
            storage.write_bytes(storage.join(self._run_uri, release.CONFIG), self._config_yaml.encode())
            self._records = records.RecordWriter(self._run_uri, state.images)
        self._last_step = time.perf_counter()
        self._last_images = state.images

    @property
    def images_per_second(self) -> float:
        return self._trained_images / self._trained_s if self._trained_s else 0.0

    def step(self, scalars: dict[str, float], waited_s: float) -> None:
        """Record a round: the scalars of its phases, and the seconds of waiting for images."""
        now = time.perf_counter()
        self._trained_s += now - self._last_step
        self._trained_images += self._state.images - self._last_images
        self._last_step, self._last_images = now, self._state.images
        self._scalars = scalars
        self._waited_s += waited_s
        self._context.progress(self._progress())

    def measured(self, found: Measurement) -> None:
        """Write the record, samples and checkpoint of a measurement, and the release if it is the best."""
        state = self._state
        self.value = value = found.distance
        better = state.best is None or value < state.best.value
        if better:
            state.best = Best(value, state.images)
        metrics = {**found.figures, **self._settings}
        if self._first:
            self._context.before_writing()
            picture = self._write_samples()
            if better:
                self._write_best(metrics, picture)
        self.checkpoint(metrics)
        self._last_step = time.perf_counter()
        self._context.progress(self._progress())

    def checkpoint(self, metrics: dict[str, object]) -> None:
        """Write a checkpoint and its record."""
        record = self._record(metrics)
        folder, name = None, ""
        if self._first:
            folder = Path(tempfile.mkdtemp(prefix="gan-dist-"))
            states.save(self._state, str(folder), self._config_yaml)
            self._context.before_writing()
            name = states.checkpoint_name(self._state.images, checkpoint_names(self._run_uri))
            self._records.write({**record, "checkpoint": name})
        self._context.report(record, folder, name)

    def _record(self, metrics: dict[str, object]) -> dict[str, object]:
        return {
            "images": self._state.images,
            "kimg": self._state.images / 1000,
            **self._scalars,
            **self._weight_norms(),
            "images_per_second": self.images_per_second,
            "quarantined": self._quarantined,
            **metrics,
        }

    def _weight_norms(self) -> dict[str, float]:
        networks = {"d": self._state.discriminator, "g": self._state.generator}
        return {
            f"weight_norm_{name}": float(torch.nn.utils.get_total_norm(list(network.parameters())))
            for name, network in networks.items()
        }

    def close(self) -> None:
        if self._first:
            self._records.close()

    def _write_samples(self) -> Image:
        """Write the grid of images of the same latents as ever, and return it."""
        state = self._state
        latents = rng.normal((GRID, state.average.latent_dim), self._seed, "latents-grid")
        device, classes = self._context.device, state.shape.classes
        labels = torch.arange(GRID, device=device) * classes // GRID if classes else None
        with torch.no_grad():
            picture = image_grid(to_uint8(state.average(latents.to(device), labels)))
        name = f"fakes_{state.images / 1000:010.3f}.png"
        write_png(storage.join(self._run_uri, "samples", name), picture)
        return picture

    def _write_best(self, metrics: dict[str, object], picture: Image) -> None:
        """Write the averaged generator as a release; checkpoints are deleted as the run goes on."""
        release.write_best(
            self._run_uri,
            self._state.average,
            shape=self._state.shape,
            config_yaml=self._config_yaml,
            record=self._record(metrics),
            metric=self._metric,
            picture=picture,
        )

    def _progress(self) -> Progress:
        state = self._state
        return Progress(
            images=state.images,
            total_images=self._total,
            loss_d=self._scalars["loss_d"],
            loss_g=self._scalars["loss_g"],
            metric=self._metric,
            value=self.value,
            best=None if state.best is None else state.best.value,
            waited_s=self._waited_s,
        )
