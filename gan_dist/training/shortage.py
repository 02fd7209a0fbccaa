"""What is said where a GPU's memory does not hold a step."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gan_dist.config import RunConfig
from gan_dist.core.memory import shortage_explained
from gan_dist.training.context import Context


@contextmanager
def memory_explained(config: RunConfig, context: Context) -> Iterator[None]:
    """Explain which keys lessen the memory of a step, where the device runs out of it.

    Raises:
        CapacityError: it does.
    """
    with shortage_explained(lambda: _remedies(config, context.world_size)):
        yield


def _remedies(config: RunConfig, workers: int) -> str:
    train, model = config.train, config.model
    batch, portions, mine = train.batch_size, train.accumulate, train.batch_size // workers
    smaller = [f"a model.width below {model.width}", f"a train.batch_size below {batch}"]
    possible = range(portions + 1, mine + 1)
    if finer := [n for n in possible if batch % (config.scale.workers * n * model.pack) == 0]:
        smaller.insert(0, f"train.accumulate={finer[0]}")
    return (
        f"a GPU's memory does not hold a step: a worker's part of a batch is train.batch_size={batch} / "
        f"{workers} = {mine} images, and train.accumulate={portions} computes {mine // portions} at a time. "
        "Use more scale.workers, or GPUs with more memory, and the run goes on; or give it another name "
        f"(name=...) with {', '.join(smaller[:-1])} or {smaller[-1]}"
    )
