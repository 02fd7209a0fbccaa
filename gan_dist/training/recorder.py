"""Writes a run's folder and tells the context: records, samples, checkpoints, the best release."""

from __future__ import annotations

import tempfile
import time
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
from gan_dist.training.schedule import augment_p

GRID = 64


class Recorder:
    """What differs by rank is here rather than in the loop."""

    def __init__(
        self,
        config: RunConfig,
        state: TrainingState,
        context: Context,
        evaluator: Evaluator,
        *,
        total: int,
        quarantined: int,
    ) -> None:
        self.value: float | None = None
        self._config = config
        self._config_yaml = to_yaml(config)
        self._quarantined = quarantined
        self._total = total
        self._run_uri = config.run_uri
        self._state = state
        self._context = context
        self._metric = evaluator.metric
        self._settings = evaluator.settings
        self._told = {"loss_d": float("nan"), "loss_g": float("nan")}
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

    def step(self, told: dict[str, float], waited_s: float) -> None:
        """Note a finished round, the scalars of its phases, and the seconds that it waited for images."""
        now = time.perf_counter()
        self._trained_s += now - self._last_step
        self._trained_images += self._state.images - self._last_images
        self._last_step, self._last_images = now, self._state.images
        self._told = told
        self._waited_s += waited_s
        self._context.progress(self._progress())

    def measured(self, found: Measurement) -> None:
        """Note a measurement: the record, the samples, the checkpoint and whether it is the best."""
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
        """Write a checkpoint and the record that goes with it."""
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
            **self._told,
            **self._watched(),
            "images_per_second": self.images_per_second,
            "quarantined": self._quarantined,
            **metrics,
        }

    def _watched(self) -> dict[str, float]:
        state = self._state
        norms = {
            f"weight_norm_{name}": float(torch.nn.utils.get_total_norm(list(network.parameters())))
            for name, network in (("d", state.discriminator), ("g", state.generator))
        }
        if self._config.data.augment == "ada":
            norms["augment_p"] = augment_p(self._config, state.augment.p, state.images)
        return norms

    def close(self) -> None:
        if self._first:
            self._records.close()

    def _write_samples(self) -> Image:
        """Write the grid of what fixed latents have become, and return it."""
        config, state = self._config, self._state
        latents = rng.normal((GRID, config.model.latent_dim), config.seed, "latents-grid")
        device, classes = self._context.device, state.shape.classes
        labels = torch.arange(GRID, device=device) * classes // GRID if classes else None
        with torch.no_grad():
            picture = image_grid(to_uint8(state.average(latents.to(device), labels)))
        name = f"fakes_{state.images / 1000:010.3f}.png"
        write_png(storage.join(self._run_uri, "samples", name), picture)
        return picture

    def _write_best(self, metrics: dict[str, object], picture: Image) -> None:
        """Keep the averaged generator as a release, beside the checkpoints, which come and go."""
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
            loss_d=self._told["loss_d"],
            loss_g=self._told["loss_g"],
            metric=self._metric,
            value=self.value,
            best=None if state.best is None else state.best.value,
            waited_s=self._waited_s,
        )
