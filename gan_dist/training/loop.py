"""The training loop: one clock, images seen; no Ray, no command line."""

from __future__ import annotations

import time

from gan_dist.config import FREE_ON_RESUME, RunConfig, differing_keys, load_config
from gan_dist.core import storage
from gan_dist.core.distributed import broadcast_from_rank0
from gan_dist.core.errors import Problem, ResumeError
from gan_dist.core.memory import explain_out_of_memory
from gan_dist.data.batches.loader import (
    batches,
    choose_reader,
    image_resolution,
    make_order,
    on_device,
    open_configured,
    to_batch,
)
from gan_dist.data.shards.manifest import ImageSet
from gan_dist.models import release
from gan_dist.models.generator import ImageShape
from gan_dist.training import checkpoint as states
from gan_dist.training.checkpoint import TrainingState
from gan_dist.training.context import Context
from gan_dist.training.damaged_groups import usable
from gan_dist.training.early_stopping import should_stop, warm_up_images
from gan_dist.training.evaluator import Evaluator, Measurement
from gan_dist.training.precision import tune_process
from gan_dist.training.progress import RunResult
from gan_dist.training.recorder import Recorder
from gan_dist.training.step import Step


def total_images(config: RunConfig) -> int:
    """Return the length of a run in images: `train.kimg`, rounded up to whole generator updates."""
    update = config.train.batch_size * config.optim.d_steps
    return -(-round(config.train.kimg * 1000) // update) * update


def require_same_run(config: RunConfig, run_uri: str) -> None:
    """Refuse to continue a run with a configuration that would have computed something else.

    Raises:
        ResumeError: with each key that differs, the run's value and the given one; or it is a search.
    """
    if storage.exists(storage.join(run_uri, release.SEARCH)):
        raise ResumeError(f"{run_uri} is a search, not a run: give the run another name (name=...)")
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
    return ImageShape(image_resolution(config.data, images), images.manifest.channels, classes)


def train(config: RunConfig, context: Context) -> RunResult:
    """Train a run from where its folder says it is, to its end or until it is asked to stop.

    Every rank calls it. The folder `<storage>/<name>/` is written by rank 0.

    Raises:
        CapacityError: the device's memory does not hold a step.
        ConfigError: the networks cannot be built for these images.
        DataError: the image set is missing or damaged.
        NonFiniteError: a loss or gradient stopped being a number.
        StorageError: the run's folder cannot be read or written.
    """
    # What the run is made of, and where it is.
    tune_process(context.device)
    storage.configure(config.storage.options)
    run_uri = config.run_uri
    require_same_run(config, run_uri)
    images = open_configured(config.data)
    shape = image_shape(config, images)
    state = states.new_state(config, shape, context.device)
    for warning in states.load_latest(state, run_uri):
        if context.rank == 0:
            context.warn(warning)
    total = total_images(config)
    ended = _without_progress(config, state)
    if state.images >= total or ended:
        return RunResult(state.images, finished=True, images_per_second=None, value=None, stopped_early=ended)

    # What it needs on the way.
    images, quarantined = usable(config, images, context)
    step = Step(config, state, context)
    evaluator = Evaluator(config, images, context)
    _require_same_extractor(state, evaluator, run_uri)
    recorder = Recorder(config, state, context, evaluator, total=total, quarantined=quarantined)
    rows = batches(
        make_order(config.data, images, seed=config.seed, batch_size=config.train.batch_size),
        choose_reader(images, config.data.cache, with_ray=context.with_ray),
        rank=context.rank,
        world_size=context.world_size,
        start=state.images,
        stop=total,
    )
    mine = on_device((to_batch(some, images, shape.resolution) for some in rows), context.device)

    # One round is d_steps discriminator updates and one generator update.
    every = round(config.eval.every_kimg * 1000)
    stop = False
    while state.images < total and not stop and not ended:
        before, waited_s = state.images, 0.0
        with explain_out_of_memory(lambda: _out_of_memory(config, context.world_size)):
            for _ in range(config.optim.d_steps):
                asked = time.perf_counter()
                batch = next(mine)
                waited_s += time.perf_counter() - asked
                of_d = step.discriminator_phase(batch)
            of_g = step.generator_phase(batch)
        told, stop = step.share(of_d | of_g, stop=context.rank == 0 and context.stop_requested())
        step.update_average()
        recorder.step(told, waited_s)

        # Measuring, and the checkpoint that goes with it, changes nothing of what follows.
        due = state.images // every > before // every
        if due or state.images >= total:
            recorder.measured(_measure(config, state, evaluator, due=due))
            ended = _without_progress(config, state)
            # Whoever was told what was found may have answered: nothing more is done then.
            stop = stop or broadcast_from_rank0(context, context.stop_requested())
        elif stop:
            recorder.checkpoint({})
    recorder.close()
    return RunResult(
        images=state.images,
        finished=state.images >= total or ended,
        images_per_second=recorder.images_per_second,
        value=recorder.value,
        stopped_early=ended and state.images < total,
    )


def _out_of_memory(config: RunConfig, world_size: int) -> Problem:
    """Return the problem of a GPU that cannot hold a training step."""
    train, model = config.train, config.model
    batch, accumulate, images = train.batch_size, train.accumulate, train.batch_size // world_size
    smaller = [f"a model.width below {model.width}", f"a train.batch_size below {batch}"]
    possible = range(accumulate + 1, images + 1)
    if finer := [n for n in possible if batch % (config.scale.workers * n * model.pack) == 0]:
        smaller.insert(0, f"train.accumulate={finer[0]}")
    return Problem(
        f"a GPU's memory does not hold a step: a worker's part of a batch is train.batch_size={batch} / "
        f"{world_size} = {images} images, and train.accumulate={accumulate} computes {images // accumulate} "
        "at a time",
        "use more scale.workers, or GPUs with more memory, and the run goes on; or give it another name "
        f"(name=...) with {', '.join(smaller[:-1])} or {smaller[-1]}",
        ("train.batch_size", "train.accumulate", "model.width", "scale.workers"),
    )


def _measure(config: RunConfig, state: TrainingState, evaluator: Evaluator, *, due: bool) -> Measurement:
    """Measure the averaged generator, and note in the state what the end of the run is decided from.

    Only measurements that are `due` enter that history. The extra one at the end of a run does not, since a
    longer run would not have made it.
    """
    found = evaluator(state.average)
    if config.eval.patience is not None and state.measured.spread is None:
        state.measured.spread = evaluator.noise(state.average, found)
    if due:
        state.measured.values.append((state.images, found.distance))
    return found


def _without_progress(config: RunConfig, state: TrainingState) -> bool:
    """Tell whether a run has had its `eval.patience` of evaluations without progress."""
    patience, spread = config.eval.patience, state.measured.spread
    if patience is None or spread is None:
        return False
    return should_stop(
        state.measured.values, patience=patience, spread=spread, warm_up=warm_up_images(config.ema)
    )


def _require_same_extractor(state: TrainingState, evaluator: Evaluator, run_uri: str) -> None:
    """Refuse to compare distances of two extractors.

    Raises:
        ResumeError: the run was measured by another one.
    """
    extractor = str(evaluator.settings["extractor_sha256"])
    if state.measured.extractor not in ("", extractor):
        raise ResumeError(
            f"{run_uri} was measured by an extractor with SHA-256 {state.measured.extractor}, and "
            f"eval.extractor has {extractor} now: their distances cannot be compared. Give the run another "
            "name (name=...), or the extractor that it was begun with"
        )
    state.measured.extractor = extractor
