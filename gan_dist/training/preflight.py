"""Before a run: its length, its sizes, and the checks that need no cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from gan_dist import models
from gan_dist.config import (
    FREE_ON_RESUME,
    DataConfig,
    InitConfig,
    ModelConfig,
    OptimConfig,
    RunConfig,
    TrainConfig,
    differing_keys,
    load_config,
)
from gan_dist.config.augment import augment_name
from gan_dist.config.schedules import whole_rounds
from gan_dist.core import storage
from gan_dist.core.distributed import Process
from gan_dist.core.errors import ConfigError, DamagedDataError, ResumeError
from gan_dist.core.image_size import ImageSize
from gan_dist.core.import_path import is_import_path
from gan_dist.core.storage.hashed_folder import sorted_checkpoints
from gan_dist.data.batches.loader import image_resolution, open_images
from gan_dist.data.shards.manifest import ImageSet, Manifest
from gan_dist.data.shards.verify import Without, find_damage
from gan_dist.evaluation.extractors import load_extractor
from gan_dist.evaluation.scores import possible_metrics, require_possible, score_names
from gan_dist.models import release, transfer
from gan_dist.models.checks import check_networks
from gan_dist.models.generator import ImageShape
from gan_dist.models.init import shapes_only
from gan_dist.training import augment, losses
from gan_dist.training import checkpoint as states
from gan_dist.training.checks import check_augmentation, check_loss
from gan_dist.training.evaluator import counts_modes
from gan_dist.training.path_length import WithPathLengths
from gan_dist.training.precision import PrecisionPolicy
from gan_dist.training.progress import RunResult


@dataclass(frozen=True)
class RunSummary:
    """Sizes of a run."""

    image_count: int
    """Images in the training set."""
    image_shape: tuple[int, int, int]
    """Height, width and channels of the images in the set."""
    size: ImageSize
    """Height and width of the images that the networks see."""
    generator_parameters: int
    discriminator_parameters: int
    images: int
    """Images of the whole run."""
    metric: str
    scores: tuple[str, ...]
    """Names of what an evaluation records."""
    more_scores: Mapping[str, str]
    """Names of what it would record with more of `eval.metrics`, and with which."""
    init: transfer.Beginning

    @property
    def epochs(self) -> float:
        """Passes over the training set in the whole run."""
        return self.images / self.image_count


def total_images(train: TrainConfig, optim: OptimConfig) -> int:
    """Return the length of a run in images: `train.kimg`, rounded up to whole generator updates."""
    return whole_rounds(train.kimg, train.batch_size * optim.d_steps)


def require_same_run(config: RunConfig, uri: str, *free: str) -> None:
    """Refuse to continue from a run's folder, or from a checkpoint, of a configuration of other results.

    Keys that are `free` may differ, beside those that always may, and values of schedules that lie ahead.
    Without an `init.sha256` the run keeps that of the weights that it began with.

    Raises:
        ResumeError: a key differs, or the folder is a search's.
    """
    if storage.exists(storage.join(uri, release.SEARCH)):
        raise ResumeError(
            f"{uri} is a search, not a run", "give the run another name (name=...)", keys=("name",)
        )
    earlier_uri = storage.join(uri, release.CONFIG)
    if not storage.exists(earlier_uri):
        return
    if config.init.sha256 is None:
        free = (*free, "init.sha256")
    earlier, name = load_config(earlier_uri), uri.rpartition("/")[2]
    if earlier.schedules != config.schedules:  # what has not been trained yet may change
        images = states.images_of(name) if sorted_checkpoints([name]) else states.newest_images(uri)
        earlier, config = earlier.until(images), config.until(images)
    differing = differing_keys(earlier, config, FREE_ON_RESUME | {*free})
    if differing:
        listed = "; ".join(f"{key} was {old}, is now {new}" for key, old, new in differing)
        raise ResumeError(
            f"{uri} belongs to a run with another configuration: {listed}",
            "give the run another name (name=...), or the values it was begun with",
            keys=[key for key, _, _ in differing],
        )


def image_shape(data: DataConfig, model: ModelConfig, manifest: Manifest) -> ImageShape:
    """Return the shape of the images that a run's networks generate.

    Raises:
        ConfigError: `data.channels` are not those of the set.
    """
    if data.channels not in (None, manifest.channels):
        raise ConfigError(
            f"data.channels={data.channels}: the images of data.path={data.path} have {manifest.channels}",
            f"set data.channels=null, or pack the images with --channels {data.channels}",
            keys=("data.channels", "data.path"),
        )
    names = (manifest.classes or ()) if model.conditional else ()
    return ImageShape(image_resolution(data, manifest), manifest.channels, len(names), names)


def summarise(config: RunConfig, manifest: Manifest | None = None) -> RunSummary:
    """Return the sizes of a run; nothing is written, and the networks take no memory.

    `manifest` has the sizes of a set that is not packed yet; without it, the set is opened.

    Raises:
        CheckpointError: `init.from` has no weights that fit.
        DataError: the image set or the extractor is missing, or the set is too small for a metric.
        ConfigError: the networks cannot be built for these images, the precision cannot be used, there is no
            such extractor, or a class of the user's own fails its checks.
    """
    storage.configure(config.storage.options)
    manifest = manifest or open_images(config.data.path).manifest
    shape = image_shape(config.data, config.model, manifest)
    with shapes_only():
        networks = models.build(config.model, shape)
    if is_import_path(config.model.name):
        check_networks(config.model, shape, penalised=config.loss.penalised)
    if config.loss.path_length:
        WithPathLengths.of(networks[0], config.model.name)
    losses.build(config.loss)
    if is_import_path(config.loss.name):
        check_loss(config.loss)
    augment.build(config.data)
    if is_import_path(augment_name(config.data.augment)):
        size = (shape.channels, *shape.size)
        check_augmentation(config.data, size, twice=bool(config.loss.r1 or config.loss.r2))
    init = transfer.check(config.init, config.model, *networks, config.run_uri)
    if not config.scale.gpus_per_worker:
        PrecisionPolicy.of(config.train, torch.device("cpu"), penalised=config.loss.differentiated_twice)
    extractor = load_extractor(
        config.eval.extractor, torch.device("cpu"), inception_weights=config.eval.inception_weights
    )
    fewest = min(config.eval.samples, manifest.count)
    require_possible(extractor, config.eval.metrics, fewest)
    modes = counts_modes(extractor, manifest)
    scores = score_names(extractor, config.eval.metrics, modes=modes)
    generator, discriminator = (sum(p.numel() for p in network.parameters()) for network in networks)
    return RunSummary(
        image_count=manifest.count,
        image_shape=(manifest.height, manifest.width, manifest.channels),
        size=shape.size,
        generator_parameters=generator,
        discriminator_parameters=discriminator,
        images=total_images(config.train, config.optim),
        metric=extractor.metric,
        scores=scores,
        more_scores={
            name: one
            for one in possible_metrics(extractor, fewest)
            for name in score_names(extractor, (one,), modes=modes)
            if name not in scores
        },
        init=init,
    )


def require_sources(
    beginnings: Iterable[tuple[InitConfig, ModelConfig]], data: DataConfig, manifest: Manifest | None
) -> None:
    """Refuse a search of which a trial could not begin, before any does; for `manifest` see `summarise`.

    `beginnings` are sections of the trials' configurations.

    Raises:
        CheckpointError: what one begins with is missing, or does not fit its networks.
        ConfigError: the networks cannot be built, or have too few stages to freeze.
    """
    for init, model in beginnings:
        shape = image_shape(data, model, manifest or open_images(data.path).manifest)
        with shapes_only():
            transfer.check(init, model, *models.build(model, shape))


def prepare(
    config: RunConfig, manifest: Manifest | None = None, note: Callable[[str], None] = lambda _: None
) -> RunResult | None:
    """Return the result of a run if it has ended already; for `manifest` see `summarise`.

    `note` is called with what a run that begins now takes of `init.from`, a line for each network.

    Raises:
        GanDistError: it cannot succeed, for the reasons of `summarise` and `require_same_run`.
    """
    summary = summarise(config, manifest)
    require_same_run(config, config.run_uri)
    for subject, words in summary.init.words.items():
        note(f"{subject}: {words}")
    images = states.newest_images(config.run_uri)
    if images >= total_images(config.train, config.optim):
        return RunResult(images, finished=True, images_per_second=None, value=None)
    return None


def without_damage(data: DataConfig, images: ImageSet, process: Process) -> tuple[ImageSet, int]:
    """Return a set without its damaged row groups, and the number of images in these.

    Every rank reads a part of the set and returns the same. With `data.verify=raise` nothing is read: damage
    then stops the run at the damaged row group.

    Raises:
        DamagedDataError: all row groups are damaged.
    """
    count = len(images.group_rows)
    if data.verify == "raise":
        return images, 0
    damage = find_damage(images, range(process.rank, count, process.world_size))
    for sentence in damage.values():
        process.warn(f"left out: {sentence}")
    damaged = torch.zeros(count, dtype=torch.int32, device=process.device)
    damaged[list(damage)] = 1
    if process.world_size > 1:
        dist.all_reduce(damaged)
    groups = damaged.nonzero().flatten().tolist()
    if len(groups) == count:
        raise DamagedDataError(f"no row group of data.path={data.path} is whole", "pack the set again")
    return Without(images, groups), sum(images.group_rows[group] for group in groups)
