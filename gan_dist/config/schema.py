"""The whole run as frozen models; `load.py` fills them from a preset or YAML file and overrides.

The dotted names of the fields (`optim.g.lr`) are the keys that a user types and a search space names.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Positive = Annotated[int, Field(gt=0)]
PositiveFloat = Annotated[float, Field(gt=0)]
Beta = Annotated[float, Field(ge=0, lt=1)]


class Section(BaseModel):
    """A part of the configuration: immutable, and with no key that is not written here."""

    model_config = ConfigDict(frozen=True, extra="forbid", use_attribute_docstrings=True, allow_inf_nan=False)


class StorageConfig(Section):
    """Where runs are kept, and how all files are reached; `storage: URI` is short for `storage.path`."""

    path: Annotated[str, Field(min_length=1)] = "runs"
    """Folder or bucket prefix in which runs are kept."""
    backend: Literal["pyarrow", "s3fs"] = "pyarrow"
    """What talks to object stores; `s3fs` reaches some that `pyarrow` does not."""
    timeout_s: PositiveFloat = 60.0
    """Seconds after which an operation on an object store that does not succeed is given up, its retries
    included."""


class DataConfig(Section):
    """Which images, and how they are read."""

    path: str
    """Shards made by `gan-dist pack`, or a built-in set: `builtin://digits`, `builtin://stacked-digits`,
    `builtin://shapes?count=N&resolution=R`."""
    resolution: Positive | None = None
    """Edge length in pixels to which images are resized when they are read; the shards' own when absent."""
    cache: Literal["auto", "memory", "stream"] = "auto"
    """`memory` holds the decoded set in every worker; `stream` reads shards as training goes;
    `auto` takes memory for sets of up to 256 MiB of pixels. The order of images is the same."""
    verify: Literal["raise", "quarantine"] = "raise"
    """What a damaged row group does: `raise` names it and stops the run; `quarantine` reads the whole set
    once before training, names what is damaged, and trains on the rest."""
    disk_cache_gb: Annotated[float, Field(ge=0)] = 0.0
    """Gigabytes (10^9 bytes) of each node's disk that may hold row groups fetched from object storage;
    0 fetches them anew in every epoch."""
    disk_cache_dir: str = "~/.cache/gan-dist"
    """Where a node keeps them."""
    streams: Positive | None = None
    """Number of canonical streams that the global order is woven from; chosen from the set when absent.
    Up to this many workers read disjoint rows."""
    window: Positive = 16384
    """Images over which order is shuffled at once, over all streams together. More mixes better and holds
    more memory: two to three times `window` images, divided among the workers, and a dozen row groups each.
    A set that is larger is shuffled in blocks: whole row groups in random order, rows within a window."""


class ModelConfig(Section):
    """The two networks."""

    name: Literal["dcgan"] = "dcgan"
    """Architecture of generator and discriminator."""
    latent_dim: Positive = 100
    """Length of the latent vector z, drawn from N(0, 1)."""
    width: Positive = 64
    """Channels next to the image; every halving of the resolution doubles them."""


class LossConfig(Section):
    """The adversarial objective."""

    name: Literal["minimax", "nonsaturating"] = "nonsaturating"
    """`minimax` is the original saturating game, `nonsaturating` the one that is used in practice."""


class AdamConfig(Section):
    """One network's optimizer: Adam."""

    lr: PositiveFloat = 2e-4
    """Learning rate."""
    beta1: Beta = 0.5
    """Decay of the gradient's running mean."""
    beta2: Beta = 0.999
    """Decay of the squared gradient's running mean."""


class OptimConfig(Section):
    """How both networks are updated."""

    g: AdamConfig = AdamConfig()
    """The generator's optimizer."""
    d: AdamConfig = AdamConfig()
    """The discriminator's optimizer."""
    d_steps: Positive = 1
    """Discriminator updates, each on a batch of its own, for one generator update."""


class EmaConfig(Section):
    """The averaged generator, which is what is evaluated and released."""

    half_life_kimg: PositiveFloat = 10.0
    """Thousands of images after which a weight's influence on the average has halved."""
    ramp_up: PositiveFloat = 0.05
    """The half-life is at most this fraction of the images seen so far, so that the start is forgotten."""


class TrainConfig(Section):
    """How long and in which portions."""

    batch_size: Positive = 64
    """Images in one batch over all workers together."""
    kimg: PositiveFloat = 1000.0
    """Length of the run in thousands of images seen by the discriminator."""


class EvalConfig(Section):
    """How the averaged generator is measured; every evaluation also writes a checkpoint."""

    every_kimg: PositiveFloat = 50.0
    """Thousands of images between evaluations; the last one is at the end of the run."""
    samples: Annotated[int, Field(ge=2)] = 10000
    """Generated images per evaluation. Distances are comparable at equal numbers only."""
    extractor: Literal["digits"] = "digits"
    """Network whose features are compared; the metric is called `fd_<extractor>`."""


class ScaleConfig(Section):
    """What the run occupies."""

    workers: Positive = 1
    """DDP processes."""
    cpus_per_worker: PositiveFloat = 1.0
    """CPUs that one worker reserves; its threads follow."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0.0
    """GPUs that one worker reserves; 0 trains on the CPU."""


class LogConfig(Section):
    """What is shown while the run goes on."""

    every_s: PositiveFloat = 10.0
    """Seconds between progress lines where standard output is not a terminal."""


class RunConfig(Section):
    """One training run."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
    """Name of the run, and of its folder in `storage`. The same name continues the same run."""
    storage: StorageConfig = StorageConfig()
    """Where runs are kept, and how files are reached."""
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0
    """Seed of the initial weights, of the order of the images and of all noise."""
    data: DataConfig
    """Which images, and how they are read."""
    model: ModelConfig = ModelConfig()
    """The two networks."""
    loss: LossConfig = LossConfig()
    """The adversarial objective."""
    optim: OptimConfig = OptimConfig()
    """How both networks are updated."""
    ema: EmaConfig = EmaConfig()
    """The averaged generator."""
    train: TrainConfig = TrainConfig()
    """How long and in which portions."""
    eval: EvalConfig = EvalConfig()
    """How the averaged generator is measured."""
    scale: ScaleConfig = ScaleConfig()
    """What the run occupies."""
    log: LogConfig = LogConfig()
    """What is shown while the run goes on."""

    @property
    def run_uri(self) -> str:
        """The run's folder."""
        base, mark, query = self.storage.path.partition("?")
        return f"{base.rstrip('/')}/{self.name}{mark}{query}"

    @model_validator(mode="after")
    def _batch_divides(self) -> RunConfig:
        batch, workers = self.train.batch_size, self.scale.workers
        if batch % workers:
            below, above = batch - batch % workers, batch + workers - batch % workers
            nearest = f"{above}" if below == 0 else f"{below} or {above}"
            raise ValueError(
                f"train.batch_size={batch} is the batch over all workers and must divide by "
                f"scale.workers={workers}: {batch} / {workers} = {batch / workers:g}; use {nearest}"
            )
        return self


FREE_ON_RESUME = frozenset(
    {
        "storage.path",
        "storage.backend",
        "storage.timeout_s",
        "data.cache",
        "data.verify",
        "data.disk_cache_gb",
        "data.disk_cache_dir",
        "train.kimg",
        "eval.every_kimg",
        "scale.workers",
        "scale.cpus_per_worker",
        "scale.gpus_per_worker",
        "log.every_s",
    }
)
"""Keys that may change when a run continues: they say how far and where it runs, not what it computes."""

SHORTHAND = {"storage": "storage.path"}
"""Sections that a plain value may stand for, and the key that it then sets."""
