"""The training loop: one clock, images seen; no Ray, no command line."""

from __future__ import annotations

import time
from dataclasses import dataclass

import torch
from PIL.Image import Image

from gan_dist import randomness, release, storage, telemetry
from gan_dist.config import FREE_ON_RESUME, RunConfig, differing_keys, load_config, to_yaml
from gan_dist.data.device import on_device
from gan_dist.data.loader import (
    batches,
    choose_fetch,
    image_resolution,
    make_order,
    open_configured,
    to_batch,
)
from gan_dist.data.manifest import ImageSet
from gan_dist.errors import ResumeError
from gan_dist.release import ImageShape
from gan_dist.storage import StorageOptions
from gan_dist.telemetry import Progress
from gan_dist.training import state as states
from gan_dist.training.arithmetic import tune_process
from gan_dist.training.context import Context
from gan_dist.training.evaluate import Evaluator, Measurement, generate, metric_name
from gan_dist.training.quarantine import usable
from gan_dist.training.state import Best, TrainingState
from gan_dist.training.step import Step

GRID = 64


@dataclass(frozen=True)
class Outcome:
    """Where a run ended."""

    images: int
    finished: bool
    """False when it was asked to stop before its last image."""
    images_per_second: float | None
    """Over this call's training, evaluations left out; None when there was nothing to do."""
    value: float | None
    """The last measurement."""


def total_images(config: RunConfig) -> int:
    """Return the length of a run in images: `train.kimg`, rounded up to whole generator updates."""
    update = config.train.batch_size * config.optim.d_steps
    return -(-round(config.train.kimg * 1000) // update) * update


def require_same_run(config: RunConfig, run_uri: str) -> None:
    """Refuse to continue a run with a configuration that would have computed something else.

    Raises:
        ResumeError: with each key that differs, the run's value and the given one.
    """
    earlier_uri = storage.join(run_uri, release.CONFIG)
    if not storage.exists(earlier_uri):
        return
    differing = differing_keys(load_config(earlier_uri), config, FREE_ON_RESUME)
    if differing:
        listed = "; ".join(f"{key} was {old}, is now {new}" for key, old, new in differing)
        raise ResumeError(
            f"{run_uri} belongs to a run with another configuration: {listed}. Give the run another name "
            "(name=...), or the values it was begun with"
        )


def image_shape(config: RunConfig, images: ImageSet) -> ImageShape:
    """Return what the networks of a run make of an image set."""
    classes = len(images.manifest.classes or ()) if config.model.conditional else 0
    return ImageShape(image_resolution(config, images), images.manifest.channels, classes)


def train(config: RunConfig, context: Context) -> Outcome:
    """Train a run from where its folder says it is, to its end or until it is asked to stop.

    Every rank calls it. The folder `<storage>/<name>/` is written by rank 0.

    Raises:
        ConfigError: the networks cannot be built for these images.
        DataError: the image set is missing or damaged.
        NonFiniteError: a loss or gradient stopped being a number.
        StorageError: the run's folder cannot be read or written.
    """
    # What the run is made of, and where it is.
    tune_process(context.device)
    storage.configure(StorageOptions(config.storage.backend, config.storage.timeout_s))
    run_uri = config.run_uri
    require_same_run(config, run_uri)
    images = open_configured(config)
    shape = image_shape(config, images)
    state = states.new_state(config, shape, context.device)
    for warning in states.load_latest(state, run_uri):
        if context.rank == 0:
            context.warn(warning)
    total = total_images(config)
    if state.images >= total:
        return Outcome(state.images, finished=True, images_per_second=None, value=None)

    # What it needs on the way.
    images, quarantined = usable(config, images, context)
    step = Step(config, state, context)
    evaluator = Evaluator(config, images, context)
    recorder = _Recorder(config, run_uri, state, context, quarantined)
    rows = batches(
        make_order(config, images),
        choose_fetch(config, images, with_ray=context.with_ray),
        rank=context.rank,
        world_size=context.world_size,
        start=state.images,
        stop=total,
    )
    mine = on_device((to_batch(some, images, shape.resolution) for some in rows), context.device)

    # One round is d_steps discriminator updates and one generator update.
    stop = False
    while state.images < total and not stop:
        before = state.images
        for _ in range(config.optim.d_steps):
            batch = next(mine)
            of_d = step.discriminator_phase(batch)
        of_g = step.generator_phase(batch)
        told, stop = step.share(of_d | of_g, stop=context.rank == 0 and context.stop_requested())
        step.update_average()
        recorder.step(told)

        # Measuring, and the checkpoint that goes with it, changes nothing of what follows.
        every = round(config.eval.every_kimg * 1000)
        if state.images // every > before // every or state.images >= total:
            recorder.measured(evaluator(state.average))
        elif stop:
            recorder.checkpoint({})
    recorder.close()
    return Outcome(
        images=state.images,
        finished=state.images >= total,
        images_per_second=recorder.images_per_second,
        value=recorder.value,
    )


class _Recorder:
    """Writes a run's folder and tells the context; what differs by rank is here rather than in the loop."""

    def __init__(
        self, config: RunConfig, run_uri: str, state: TrainingState, context: Context, quarantined: int
    ) -> None:
        self.value: float | None = None
        self._config = config
        self._config_yaml = to_yaml(config)
        self._quarantined = quarantined
        self._run_uri = run_uri
        self._state = state
        self._context = context
        self._metric = metric_name(config)
        self._told = {"loss_d": float("nan"), "loss_g": float("nan")}
        self._trained_s = 0.0
        self._trained_images = 0
        self._first = context.rank == 0
        if self._first:
            storage.write_bytes(storage.join(run_uri, release.CONFIG), self._config_yaml.encode())
            self._records = telemetry.Records(run_uri, state.images)
        self._last_step = time.perf_counter()
        self._last_images = state.images

    @property
    def images_per_second(self) -> float:
        return self._trained_images / self._trained_s if self._trained_s else 0.0

    def step(self, told: dict[str, float]) -> None:
        """Note a finished round, and the scalars of its phases."""
        now = time.perf_counter()
        self._trained_s += now - self._last_step
        self._trained_images += self._state.images - self._last_images
        self._last_step, self._last_images = now, self._state.images
        self._told = told
        if self._first:
            self._context.progress(self._progress())

    def measured(self, found: Measurement) -> None:
        """Note a measurement: the record, the samples, the checkpoint and whether it is the best."""
        state = self._state
        self.value = value = found.distance
        better = state.best is None or value < state.best.value
        if better:
            state.best = Best(value, state.images)
        metrics = {self._metric: value, **found.indicators}
        if self._first:
            picture = self._write_samples()
            if better:
                self._write_best(metrics, picture)
        self.checkpoint(metrics)
        self._last_step = time.perf_counter()
        if self._first:
            self._context.progress(self._progress())

    def checkpoint(self, metrics: dict[str, float]) -> None:
        """Write a checkpoint and the record that goes with it."""
        record = self._record(metrics)
        folder, name = None, ""
        if self._first:
            folder = telemetry.local_folder()
            states.save(self._state, str(folder), self._config_yaml)
            name = states.checkpoint_name(self._state.images, states.checkpoint_names(self._run_uri))
            self._records.write({**record, "checkpoint": name})
        self._context.report(record, folder, name)

    def _record(self, metrics: dict[str, float]) -> dict[str, object]:
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
        return norms | ({"augment_p": state.augment.p} if self._config.data.augment == "ada" else {})

    def close(self) -> None:
        if self._first:
            self._records.close()

    def _write_samples(self) -> Image:
        """Write the grid of what fixed latents have become, and return it."""
        config, state = self._config, self._state
        latents = randomness.normal((GRID, config.model.latent_dim), config.seed, "latents-grid")
        device, classes = self._context.device, state.shape.classes
        labels = torch.arange(GRID, device=device) * classes // GRID if classes else None
        picture = telemetry.image_grid(generate(state.average, latents.to(device), labels))
        name = f"fakes_{state.images / 1000:010.3f}.png"
        telemetry.write_png(storage.join(self._run_uri, "samples", name), picture)
        return picture

    def _write_best(self, metrics: dict[str, float], picture: Image) -> None:
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
            total_images=total_images(self._config),
            loss_d=self._told["loss_d"],
            loss_g=self._told["loss_g"],
            metric=self._metric,
            value=self.value,
            best=None if state.best is None else state.best.value,
        )
