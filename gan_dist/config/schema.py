"""The configuration of a run as frozen models, which `load.py` fills from files and overrides.

The dotted names of the fields (`optim.g.lr`) are the keys of files, overrides and search spaces.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from gan_dist.config.data import DataConfig
from gan_dist.config.init import InitConfig
from gan_dist.config.loss_optim import LossConfig, OptimConfig, require_agreement
from gan_dist.config.model import ModelConfig
from gan_dist.config.scale import ScaleConfig, worker_counts
from gan_dist.config.schedules import Points, images_of, merged, value_at
from gan_dist.config.search import SearchConfig
from gan_dist.config.section import (
    ConflictError,
    Every,
    Kimg,
    NotNegative,
    Positive,
    PositiveFloat,
    Seconds,
    Section,
)
from gan_dist.core.storage import BACKENDS, StorageOptions, join


class StorageConfig(Section):
    """Folder of the runs, and access to object stores; `storage: URI` is short for `storage.path`."""

    path: Annotated[str, Field(min_length=1)] = "runs"
    """Folder or bucket prefix in which runs are kept."""
    backend: BACKENDS = "pyarrow"
    """What talks to object stores; `s3fs` reaches some that `pyarrow` does not."""
    timeout_s: Seconds = 60.0
    """Seconds after which an operation on an object store that does not succeed is given up, its retries
    included."""
    max_outage_s: NotNegative = 600.0
    """Seconds for which a run trains on while its store does not answer, or refuses what it accepted before;
    what it has to write waits in memory."""

    @property
    def options(self) -> StorageOptions:
        """The same settings for the storage layer."""
        return StorageOptions(self.backend, self.timeout_s)


class EmaConfig(Section):
    """The moving average of the generator's weights, which is evaluated and released."""

    half_life_kimg: PositiveFloat = 10.0
    """Thousands of images after which a weight's influence on the average has halved."""
    ramp_up: PositiveFloat = 0.05
    """The half-life is at most this fraction of the images seen so far, so that the start is forgotten;
    `half_life_start_kimg` replaces it."""
    half_life_start_kimg: NotNegative | None = None
    """The half-life at the start, which becomes `half_life_kimg` by the end of `optim.schedule` (R3GAN: 0);
    `ramp_up` limits it when absent."""

    @model_validator(mode="after")
    def _start_agrees(self) -> EmaConfig:
        usual = type(self).model_fields["ramp_up"].default
        if self.half_life_start_kimg is not None and self.ramp_up != usual:
            raise ConflictError(
                f"ema.ramp_up={self.ramp_up:g} contradicts ema.half_life_start_kimg="
                f"{self.half_life_start_kimg:g}: a half-life that goes by optim.schedule is not limited",
                f"set ema.ramp_up={usual:g}, or ema.half_life_start_kimg=null",
                keys=("ema.ramp_up", "ema.half_life_start_kimg"),
            )
        return self


class TrainConfig(Section):
    """Length of the run, size of its batches, precision."""

    batch_size: Positive = 64
    """Images in one batch over all workers together."""
    kimg: Kimg = 1000.0
    """Length of the run in thousands of images seen by the discriminator."""
    accumulate: Positive = 1
    """Portions in which a worker computes its part of a batch, to save memory; the mean is the same, but for
    batch normalisation, which sees a portion at a time."""
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of the networks: `auto` is bf16 where the hardware has it. Penalties, losses, weights,
    averages and measurements are always float32; of these, GPUs round penalties' factors to TF32."""
    channels_last: bool = True
    """Lay images out with their channels innermost, as fast convolutions want them."""
    compile: Literal["auto", "never", "always"] = "auto"
    """torch.compile: `auto` on GPUs with a C compiler and Python's headers beside them, for losses without
    gradient penalties and, on several workers, for networks without batch normalisation."""
    checkpoint_every_s: Seconds | None = 300.0
    """Seconds after the last checkpoint at which another is written between evaluations; null: only
    evaluations write them."""
    keep: Positive = 3
    """Newest checkpoints that are kept: one to go on from, the others in case that it is damaged."""


class EvalConfig(Section):
    """Evaluation of the averaged generator; every evaluation also writes a checkpoint."""

    every_kimg: Every = 50.0
    """Thousands of images between evaluations, at least one image; the last one is at the end of the run."""
    samples: Annotated[int, Field(ge=2)] = 10000
    """Generated images per evaluation. Distances are comparable at equal numbers only."""
    extractor: Annotated[str, Field(pattern=r"^([a-z]+|[A-Za-z_][\w.]*:[A-Za-z_]\w*)$")] = "digits"
    """Network whose features are compared: `inception` (FID), `digits`, `random` (convolutions that were
    never trained, for images far from photographs), or your own class as `package.module:Class`. `auto`:
    `inception` where its weights are, otherwise `digits` for built-in digits and `random` for all else."""
    inception_weights: str | None = None
    """File or URI of `inception`'s weights; when absent, that in GAN_DIST_INCEPTION_WEIGHTS, or what
    torch-fidelity has downloaded."""
    metrics: tuple[Literal["kid", "is", "pr", "dc", "memorisation"], ...] = ()
    """What is measured beside the Frechet distance: `kid`, `is` (Inception Score), `pr` (precision and
    recall), `dc` (density and coverage), `memorisation` (a test of copying, by as many training images as
    `samples`, 10,000 at most)."""
    patience: Positive | None = None
    """The run ends early when the median of this many evaluations is no better than that of as many before
    them, as far as the measurement's noise tells; a sixth of the run's evaluations is a good choice. Those
    before `ema.half_life_kimg / ema.ramp_up` kimg do not count, nor with `ema.half_life_start_kimg` those
    before that value over `ema.ramp_up`."""
    target: PositiveFloat | None = None
    """The run ends early once the Frechet distance is at or below this in two evaluations, one after another;
    the one at the end of the run counts only if it is due there by `every_kimg`."""


class LogConfig(Section):
    """Records of the run, and its progress on the terminal."""

    every_kimg: Every = 1.0
    """Thousands of images between records in `metrics.jsonl`, each of which has means over these images;
    evaluations add records of their own between them."""
    to: tuple[Literal["tensorboard", "mlflow", "wandb"], ...] = ("tensorboard",)
    """Where the records and samples go beside the run's folder: `tensorboard` (files in it), `mlflow` (the
    server at MLFLOW_TRACKING_URI), `wandb` (Weights & Biases). One that does not answer stops no run."""
    project: Annotated[str, Field(min_length=1)] | None = None
    """MLflow's experiment and W&B's project; when absent, what MLFLOW_EXPERIMENT_NAME and WANDB_PROJECT name,
    or `gan-dist`."""
    every_s: Seconds = 10.0
    """Seconds between progress lines where standard output is not a terminal."""


class ProfileConfig(Section):
    """Measurement of where the time of training steps goes."""

    steps: Annotated[int, Field(ge=0)] = 0
    """Steps (rounds of both networks' updates) that are measured after the first three of a command, and as
    many in which arithmetic is counted; their trace and table are in the run's folder `profile/`. 0: none."""


class RunConfig(Section):
    """One training run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the run, and of its folder in `storage`. The same name continues the same run."""
    storage: StorageConfig = StorageConfig()
    """Folder of the runs, and access to object stores."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the initial weights, of the order of the images and of all noise."""
    data: DataConfig
    """The image set, its order and its augmentation."""
    model: ModelConfig = ModelConfig()
    """The two networks."""
    init: InitConfig = InitConfig()
    """The weights that the run begins with."""
    loss: LossConfig = LossConfig()
    """The adversarial objective."""
    optim: OptimConfig = OptimConfig()
    """The optimizers of both networks."""
    ema: EmaConfig = EmaConfig()
    """The moving average of the generator's weights."""
    train: TrainConfig = TrainConfig()
    """Length of the run, size of its batches, precision."""
    eval: EvalConfig = EvalConfig()
    """Evaluation of the averaged generator."""
    scale: ScaleConfig = ScaleConfig()
    """Resources of the run: workers, CPUs and GPUs."""
    log: LogConfig = LogConfig()
    """Records of the run, and its progress on the terminal."""
    profile: ProfileConfig = ProfileConfig()
    """Measurement of where the time of training steps goes."""
    search: SearchConfig | None = None
    """What `gan-dist tune` varies; `gan-dist train` ignores it."""
    schedules: dict[str, Points] = Field(default={})
    """Values by kimg of keys that change within the run, whose fields have the value at 0. No key of its own:
    a file has a mapping in place of the key's value."""

    def at(self, images: int) -> RunConfig:
        """Return the configuration with the values of the schedules after `images` images."""
        config = self
        for key, points in self.schedules.items():
            config = _with_value(config, key.split("."), value_at(points, images))
        return config

    def until(self, images: int) -> RunConfig:
        """Return the configuration without what its schedules change at `images` images or later."""
        before = {
            key: tuple(point for point in points if images_of(point[0]) < max(1, images))
            for key, points in self.schedules.items()
        }
        kept = {key: merged(points) for key, points in before.items() if len(points) > 1}
        return self.model_copy(update={"schedules": kept})

    @property
    def run_uri(self) -> str:
        """The run's folder."""
        return join(self.storage.path, self.name)

    @property
    def worker_counts(self) -> tuple[int, ...]:
        """Numbers of workers that the run can have, the largest first."""
        train, model = self.train, self.model
        return worker_counts(self.scale, train.batch_size, train.accumulate, model.pack, model.group)

    @model_validator(mode="after")
    def _sections_agree(self) -> RunConfig:
        _ = self.worker_counts
        require_agreement(self.loss, self.optim, self.train.kimg, self.ema.half_life_start_kimg)
        return self


def _with_value(section: Any, names: list[str], value: object) -> Any:
    """Return a copy of a section with another value of the key that `names` lead to."""
    first, *below = names
    inner = _with_value(getattr(section, first), below, value) if below else value
    return section.model_copy(update={first: inner})


FREE_ON_RESUME = frozenset(
    {
        "name",
        "storage.path",
        "storage.backend",
        "storage.timeout_s",
        "storage.max_outage_s",
        "data.cache",
        "data.verify",
        "data.disk_cache_gb",
        "data.disk_cache_dir",
        "train.kimg",
        "train.checkpoint_every_s",
        "train.keep",
        "eval.every_kimg",
        "eval.inception_weights",
        "eval.metrics",
        "eval.patience",
        "eval.target",
        "scale.workers",
        "scale.min_workers",
        "scale.wait_s",
        "scale.collective_timeout_s",
        "scale.cpus_per_worker",
        "scale.gpus_per_worker",
        "log.every_kimg",
        "log.every_s",
        "log.project",
        "log.to",
        "profile.steps",
    }
)
"""Keys that may change when a run continues: they say how far and where it runs, not what it computes."""

SECTION_SHORTCUTS = {"storage": "storage.path"}
"""Sections that may be given as a plain value, and the key that this value sets."""
