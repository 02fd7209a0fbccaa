"""The training loop: one clock, images seen; no Ray, no command line."""

from __future__ import annotations

import time

from gan_dist.config import InitConfig, ModelConfig, RunConfig, TrainConfig
from gan_dist.core import storage
from gan_dist.core.distributed import broadcast_from_rank0
from gan_dist.core.errors import Problem, ResumeError
from gan_dist.core.memory import explain_out_of_memory
from gan_dist.data.batches.loader import (
    batches,
    choose_reader,
    make_order,
    on_device,
    open_configured,
    to_batch,
)
from gan_dist.models import transfer
from gan_dist.training import checkpoint as states
from gan_dist.training.context import Context
from gan_dist.training.evaluator import Evaluator, Measurement
from gan_dist.training.precision import tune_process
from gan_dist.training.preflight import (
    image_shape,
    require_same_run,
    total_images,
    without_damage,
)
from gan_dist.training.profile import phase
from gan_dist.training.progress import RunResult
from gan_dist.training.recorder import Recorder
from gan_dist.training.state import TrainingState, new_state
from gan_dist.training.step import Step


def train(config: RunConfig, context: Context, stop_at: int | None = None) -> RunResult:
    """Train a run from its newest checkpoint to its end, or until it is asked to stop.

    After the round that reaches `stop_at` images it stops as if it were asked to. Every rank calls it. The
    folder `<storage>/<name>/` is written by rank 0.

    Raises:
        CheckpointError: there is no checkpoint, and `init.from` has no weights that fit.
        CapacityError: a step does not fit into the device's memory.
        ConfigError: the networks cannot be built for these images.
        DataError: the image set is missing or damaged.
        NonFiniteError: a gradient is infinite or not a number.
        StorageError: the run's folder cannot be read or written.
    """
    # Load the run, or begin it.
    tune_process(context.device)
    storage.configure(config.storage.options)
    run_uri = config.run_uri
    require_same_run(config, run_uri)
    init = _kept_by_first(config.init, run_uri, context)
    config = config.model_copy(update={"init": init})
    images = open_configured(config.data)
    shape = image_shape(config.data, config.model, images.manifest)
    state = new_state(
        config.model,
        config.optim,
        shape,
        context.device,
        seed=config.seed,
        channels_last=config.train.channels_last,
        freeze_d=init.freeze_d,
    )
    loaded = states.load_latest(state, run_uri, lambda uri: require_same_run(config, uri, "data.path"))
    for sentence in loaded.damaged.values() if context.rank == 0 else ():
        context.warn(sentence)
    if not loaded.uri and init.source is not None:
        transfer.load(init, config.model, state.networks(), run_uri)
    total = total_images(config.train, config.optim)
    ended_by = state.measured.ended_by(config.eval, config.ema)
    if state.images >= total or ended_by:
        return RunResult(state.images, finished=True, images_per_second=None, value=None, ended_by=ended_by)

    # Prepare the step, the evaluator, the recorder and the batches.
    images, quarantined = without_damage(config.data, images, context)
    step = Step(config, state, context)
    evaluator = Evaluator(config, images, context)
    _require_same_extractor(state, evaluator, run_uri)
    rows = batches(
        make_order(config.data, images, seed=config.seed, batch_size=config.train.batch_size),
        choose_reader(images, config.data.cache, with_ray=context.with_ray),
        rank=context.rank,
        world_size=context.world_size,
        start=state.images,
        stop=total,
    )
    rank_batches = on_device(
        (to_batch(part, images, shape.resolution, config.data.fit) for part in rows), context.device
    )

    # One round is d_steps discriminator updates and one generator update.
    every = round(config.eval.every_kimg * 1000)
    stop = False
    fingerprint = images.manifest.fingerprint()
    with (
        Recorder(config, state, context, evaluator, fingerprint, total, quarantined, loaded) as recorder,
        step.profile(config.profile.steps, run_uri, context) as profile,
    ):
        while state.images < total and not stop and not ended_by:
            profile.round()
            before, waited_s = state.images, 0.0
            step.begin_round()
            with explain_out_of_memory(
                lambda: _out_of_memory(config.train, config.model, config.scale.workers, context.world_size)
            ):
                for _ in range(config.optim.d_steps):
                    asked = time.perf_counter()
                    with phase("data"):
                        batch = next(rank_batches)
                    waited_s += time.perf_counter() - asked
                    with phase("records"):
                        recorder.batch(batch.images)
                    with phase("D"):
                        scalars = step.discriminator_phase(batch)
                with phase("G"):
                    scalars |= step.generator_phase(batch)
            with phase("reduce"):
                reached = stop_at is not None and state.images >= stop_at
                asked_to_stop = context.rank == 0 and (reached or context.stop_requested())
                means, stop = step.average_over_ranks(scalars, stop=asked_to_stop)
            with phase("EMA"):
                step.update_average()
            due = state.images // every > before // every
            measured = due or state.images >= total
            with phase("records"):
                recorder.step(means, waited_s, measured=measured)

            # Evaluate and write a checkpoint; neither changes the training.
            if measured:
                with phase("evaluation"):
                    recorder.measured(_measure(state, evaluator, config.eval.patience, due=due))
                ended_by = state.measured.ended_by(config.eval, config.ema)
                # A search may have answered the report by a request to stop.
                stop = stop or broadcast_from_rank0(context, context.stop_requested())
                continue
            with phase("records"):
                if stop:
                    recorder.checkpoint()
                else:
                    recorder.checkpoint_if_due()
    return RunResult(
        images=state.images,
        finished=state.images >= total or ended_by is not None,
        images_per_second=recorder.images_per_second,
        value=recorder.value,
        ended_by=ended_by if state.images < total else None,
    )


def _kept_by_first(init: InitConfig, run_uri: str, context: Context) -> InitConfig:
    """Let rank 0 copy the weights that the run begins with into its folder; return `init` with their hash."""
    if init.source is None:
        return init
    if context.rank == 0:
        context.before_writing()
        init = transfer.keep(init, run_uri)
    kept: InitConfig = broadcast_from_rank0(context, init)
    return kept


def _out_of_memory(train: TrainConfig, model: ModelConfig, workers: int, world_size: int) -> Problem:
    batch, accumulate, images = train.batch_size, train.accumulate, train.batch_size // world_size
    smaller = [f"a model.width below {model.width}", f"a train.batch_size below {batch}"]
    possible = range(accumulate + 1, images + 1)
    if finer := [n for n in possible if batch % (workers * n * model.pack * model.group) == 0]:
        smaller.insert(0, f"train.accumulate={finer[0]}")
    return Problem(
        f"a GPU's memory does not hold a step: a worker's part of a batch is train.batch_size={batch} / "
        f"{world_size} = {images} images, and train.accumulate={accumulate} computes {images // accumulate} "
        "at a time",
        "use more scale.workers, or GPUs with more memory, and the run goes on; or give it another name "
        f"(name=...) with {', '.join(smaller[:-1])} or {smaller[-1]}",
        ("train.batch_size", "train.accumulate", "model.width", "scale.workers"),
    )


def _measure(state: TrainingState, evaluator: Evaluator, patience: int | None, *, due: bool) -> Measurement:
    """Measure the averaged generator, and add the distance to the history of the run if it is `due`.

    The extra evaluation at the end of a run is not due: a longer run would not have made it, and early
    stopping must not depend on it.
    """
    history = state.measured
    count = len(history.values) + 1
    first = patience is not None and history.spread is None
    # Often at first, and then as rarely as it changes: at evaluations 1, 2, 4, 8, ...
    found = evaluator(state.average, noise=first or count & (count - 1) == 0)
    if first:
        history.spread = found.figures["noise"]
    if due:
        history.values.append((state.images, found.distance))
    return found


def _require_same_extractor(state: TrainingState, evaluator: Evaluator, run_uri: str) -> None:
    extractor = str(evaluator.settings["extractor_sha256"])
    if state.measured.extractor not in ("", extractor):
        raise ResumeError(
            f"{run_uri} was measured by an extractor with SHA-256 {state.measured.extractor}, and "
            f"eval.extractor has {extractor} now: their distances cannot be compared",
            "give the run another name (name=...), or the extractor that it was begun with",
            keys=("eval.extractor",),
        )
    state.measured.extractor = extractor
