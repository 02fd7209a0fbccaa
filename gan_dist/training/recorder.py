"""Writes a run's folder: records, samples, checkpoints, the best release; reports them to the context."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

import torch
from PIL.Image import Image
from torch import Tensor

from gan_dist.artifacts import records
from gan_dist.artifacts.audit_log import ENTRY, AuditLog, machine
from gan_dist.config import RunConfig, to_yaml
from gan_dist.core import rng, storage
from gan_dist.core.errors import GanDistError, StorageError
from gan_dist.core.images import image_grid, write_png
from gan_dist.core.memory import peak_memory_gib
from gan_dist.core.storage.hashed_folder import File, Hashes
from gan_dist.models import release
from gan_dist.models.generator import to_uint8
from gan_dist.training import checkpoint as states
from gan_dist.training.context import Context
from gan_dist.training.evaluator import Evaluator, Measurement
from gan_dist.training.progress import Progress
from gan_dist.training.state import Best, OpenInterval, TrainingState
from gan_dist.training.writer import RunWriter

GRID = 64


@dataclass
class Recorder:
    """Records of a run: every rank calls it, rank 0 writes.

    All is written by a thread while the loop goes on; an evaluation, the next checkpoint and the end wait for
    it, the end alone also while the store does not answer (`RunWriter`). An error of the thread is raised at
    the next step.
    """

    config: RunConfig
    state: TrainingState
    context: Context
    evaluator: Evaluator
    data: str
    """Fingerprint of the image set."""
    total: int
    """Length of the run in images."""
    quarantined: int
    """Images in damaged row groups."""
    loaded: states.Loaded
    """What the run goes on from."""
    value: float | None = field(default=None, init=False)
    """The last distance."""

    def __post_init__(self) -> None:
        self._run_uri, self._config_yaml = self.config.run_uri, to_yaml(self.config)
        self._every = round(1000 * self.config.log.every_kimg)
        self._scalars = self._means = {"loss_d": math.nan, "loss_g": math.nan}
        self._trained_s = self._waited_s = 0.0
        self._first_images = self._last_images = self.state.images
        self._interval_start = 0.0, self.state.images, 0.0
        self._first = self.context.rank == 0
        self._reals: list[Tensor] | None = None
        if self._first:
            self.context.before_writing()
            self._names = storage.list_names(self._run_uri)
            storage.write_bytes(storage.join(self._run_uri, release.CONFIG), self._config_yaml.encode())
            in_kimg = min(self.config.log.every_kimg, self.config.eval.every_kimg) >= 1
            self._records = records.RecordWriter(
                self._run_uri,
                self.state.images,
                1000 if in_kimg else 1,
                tensorboard="tensorboard" in self.config.log.to,
            )
            self._audit_log = AuditLog(
                self._run_uri,
                self.loaded.uri,
                data=self.data,
                machine=machine(self.context.device),
                workers=self.context.world_size,
            )
            names = storage.list_names(storage.join(self._run_uri, "samples"))
            self._reals = None if "reals.png" in names else []
            self._refused = False
            self._writer = RunWriter(
                self._run_uri,
                self.state.images,
                self.config.storage.max_outage_s,
                lambda: self.state.images,
                self.context.before_writing,
                self.context.warn,
            )
            if self.state.images == 0:
                self._write_samples("fakes_init.png")
        self._last_step = self._written_at = time.perf_counter()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Wait for what is being written, and write the last records; after an error as far as possible."""
        if not self._first:
            return
        try:
            with suppress(*(() if error is None else (GanDistError,))):
                self._writer.add(self._records.write())
                self._writer.wait(through_outage=error is None)
        finally:
            self._writer.close()
            self._records.close()

    @property
    def images_per_second(self) -> float:
        images = self._last_images - self._first_images
        return images / self._trained_s if self._trained_s else 0.0

    def batch(self, images: Tensor) -> None:
        """Write a grid of the first real images, uint8 (n, C, H, W), that rank 0 reads, once a run."""
        if self._reals is not None:
            self._reals.append(images[:GRID].cpu())
            if sum(map(len, self._reals)) >= GRID:
                self._write_picture("reals", "reals.png", image_grid(torch.cat(self._reals)[:GRID]))
                self._reals = None

    def step(self, scalars: dict[str, float], waited_s: float, *, measured: bool) -> None:
        """Record a round: the scalars of its phases, and the seconds of waiting for images.

        If it is `measured` next, the record of the measurement has what an interval's record would have.
        """
        now, images, before = time.perf_counter(), self.state.images, self._last_images
        self._trained_s += now - self._last_step
        self._last_step, self._last_images = now, images
        self._scalars = scalars
        self._waited_s += waited_s
        self.state.interval.add(scalars)
        ends = images // self._every > before // self._every
        if ends or measured:
            self._means = {**self.state.interval.means(), **self._resources()}
        if ends:
            self.state.interval = OpenInterval()
            self._interval_start = self._trained_s, images, self._waited_s
        if self._first:
            if ends and not measured:
                self._records.add(self._record({}))
            if self._writer.is_idle() and self._records.is_due():
                self._writer.add(self._records.write())
        self._report_progress()

    def measured(self, found: Measurement) -> None:
        """Write the record, samples and checkpoint of a measurement, and the release if it is the best."""
        state = self.state
        self.value = value = found.distance
        better = state.best is None or value < state.best.value
        if better:
            state.best = Best(value, state.images)
        record, name = {}, ""
        if self._first:
            settings = {"quarantined": self.quarantined, **self.evaluator.settings}
            record = self._record({**found.figures, **settings})
            picture = self._write_samples(f"fakes_{state.images / 1000:010.3f}.png")
            if better:
                self._add_release(record, picture)
            name = self._next_name()
            self._records.add({**record, "checkpoint": name})
            self._begin_checkpoint(name, {**found.figures, **settings})
            if not self._writer.wait():
                name = ""  # it waits for the store
        self.context.report(record, name)
        self._last_step = self._written_at = time.perf_counter()
        self._report_progress()

    def checkpoint_if_due(self) -> None:
        """Begin a checkpoint if the last one is `train.checkpoint_every_s` old."""
        every_s = self.config.train.checkpoint_every_s
        if every_s is not None and time.perf_counter() - self._written_at >= every_s:
            self.checkpoint()

    def checkpoint(self) -> None:
        """Begin to write a checkpoint and the records so far."""
        if self._first:
            self._begin_checkpoint(self._next_name(), {})

    def _next_name(self) -> str:
        self._names.append(states.checkpoint_name(self.state.images, self._names))
        return self._names[-1]

    def _begin_checkpoint(self, name: str, figures: Mapping[str, object]) -> None:
        """Begin to write a checkpoint; `figures` are the measurements of its state."""
        snapshot = states.Snapshot(self.state)

        def write() -> None:
            self._save(snapshot, name, figures)
            self._tidy(lambda: states.prune(self._run_uri, self.config.train.keep, self.loaded.damaged))

        self._writer.wait()
        # A run goes on after the checkpoint's images, and would not add earlier records again.
        self._writer.add(self._records.write())
        self._writer.add_checkpoint(snapshot.images, write)
        self._written_at = time.perf_counter()

    def _save(self, snapshot: states.Snapshot, name: str, figures: Mapping[str, object]) -> None:
        """Write a checkpoint and its entry in the audit log."""
        entries = []

        def entry(hashes: Hashes) -> File:
            entries.append(self._audit_log.entry(name, snapshot.images, hashes, figures))
            return ENTRY, entries[0].model_dump_json().encode()

        snapshot.save(storage.join(self._run_uri, name), self._config_yaml, entry)
        self._audit_log.add(entries[0])

    def _add_release(self, record: dict[str, object], picture: Image) -> None:
        write_release = release.best_writer(
            self._run_uri,
            self.state.average,
            discriminator=self.state.discriminator,
            shape=self.state.shape,
            config_yaml=self._config_yaml,
            record=record,
            metric=self.evaluator.metric,
            picture=picture,
        )

        def write() -> None:
            write_release()
            self._tidy(lambda: release.delete_earlier(self._run_uri))

        self._writer.add_release(write)

    def _tidy(self, delete: Callable[[], None]) -> None:
        """Delete what nobody needs any more; warn once of a store that refuses, which ends no run."""
        try:
            delete()
        except StorageError as error:
            if not self._refused:
                self._refused = True
                self.context.warn(f"what the run no longer needs stays in its folder: {error}")

    def _resources(self) -> dict[str, float]:
        """Return time and memory of the open interval, evaluations left out."""
        ends = self._trained_s, self._last_images, self._waited_s
        seconds, images, waited_s = (b - a for a, b in zip(self._interval_start, ends, strict=True))
        return {
            "images_per_second": images / seconds if seconds else 0.0,
            "s_per_kimg": 1000 * seconds / images,
            "wait_share": min(1.0, waited_s / seconds) if seconds else 0.0,
            "peak_memory_gib": peak_memory_gib(self.context.device),
        }

    def _record(self, metrics: dict[str, object]) -> dict[str, object]:
        networks = {"d": self.state.discriminator, "g": self.state.generator}
        return {
            "images": self.state.images,
            "kimg": self.state.images / 1000,
            **self._means,
            **{
                f"weight_norm_{name}": float(torch.nn.utils.get_total_norm(list(network.parameters())))
                for name, network in networks.items()
            },
            **metrics,
        }

    def _write_samples(self, name: str) -> Image:
        """Write the grid of images of latents that never change, and return it."""
        state = self.state
        latents = rng.normal((GRID, state.average.latent_dim), self.config.seed, "latents-grid")
        device, classes = self.context.device, state.shape.classes
        labels = torch.arange(GRID, device=device) * classes // GRID if classes else None
        with torch.no_grad():
            picture = image_grid(to_uint8(state.average(latents.to(device), labels)))
        self._write_picture("fakes", name, picture)
        return picture

    def _write_picture(self, tag: str, name: str, picture: Image) -> None:
        uri = storage.join(self._run_uri, "samples", name)
        self._writer.add(lambda: write_png(uri, picture))
        self._records.add_picture(tag, picture, self.state.images)

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
