"""The part of a configuration that says what a run occupies; which numbers of workers divide a batch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gan_dist.config.section import Positive, PositiveFloat, Section


class ScaleConfig(Section):
    """What the run occupies."""

    workers: Positive = 1
    """DDP processes."""
    min_workers: Positive | None = None
    """Processes with which the run still goes on while nodes are missing: with as many as there is room for
    and the batch divides by, and with more again when there is. As many as `workers` when absent. The fewer
    they are, the more of the batch each must hold."""
    wait_s: PositiveFloat = 1800.0
    """Seconds that the run waits for room for its workers before it ends, to be continued."""
    cpus_per_worker: PositiveFloat = 1.0
    """CPUs that one worker reserves; its threads follow."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0.0
    """GPUs that one worker reserves; 0 trains on the CPU."""

    @property
    def fewest(self) -> int:
        """The fewest workers with which the run goes on."""
        return self.min_workers or self.workers

    @property
    def threads(self) -> int:
        """Threads that a worker computes with."""
        return max(1, int(self.cpus_per_worker))


def worker_counts(scale: ScaleConfig, batch: int, accumulate: int, pack: int) -> tuple[int, ...]:
    """Return the numbers of workers that a run may have, the largest first: those that divide its batch.

    Args:
        scale: What the run asks for.
        batch: Images in a batch over all workers.
        accumulate: Portions of a worker's part of it.
        pack: Images that are judged together, which one portion must hold.

    Raises:
        ValueError: `scale.workers` or `scale.min_workers` is none of them.
    """
    workers, fewest = scale.workers, scale.fewest
    if batch % workers:
        below, above = batch - batch % workers, batch + workers - batch % workers
        nearest = f"{above}" if below == 0 else f"{below} or {above}"
        raise ValueError(
            f"train.batch_size={batch} is the batch over all workers and must divide by "
            f"scale.workers={workers}: {batch} / {workers} = {batch / workers:g}; use {nearest}"
        )
    portions = accumulate * pack
    if batch % (workers * portions):
        portions *= workers
        raise ValueError(
            f"train.batch_size={batch} must divide by scale.workers={workers} times "
            f"train.accumulate={accumulate} times model.pack={pack}: {batch} / "
            f"{portions} = {batch / portions:g}; use {batch - batch % portions + portions}"
        )
    if fewest > workers:
        raise ValueError(
            f"scale.min_workers={fewest} is more than scale.workers={workers}, of which it is the least that "
            f"the run goes on with; use {workers} or less"
        )
    every = [count for count in range(workers, 0, -1) if batch % (count * portions) == 0]
    if fewest not in every:
        above = min(count for count in every if count > fewest)
        below = max(count for count in every if count < fewest)
        raise ValueError(
            f"scale.min_workers={fewest}: a run goes on with numbers of workers that divide its batch, and "
            f"train.batch_size={batch} / ({fewest} x train.accumulate={accumulate} x model.pack={pack}) = "
            f"{batch / (fewest * portions):g}; use {below} or {above}"
        )
    return tuple(count for count in every if count >= fewest)
