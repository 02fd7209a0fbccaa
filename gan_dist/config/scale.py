"""The section of a run's workers, CPUs and GPUs; the numbers of workers that divide a batch."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from gan_dist.config.section import ConflictError, Positive, PositiveFloat, Seconds, Section


class ScaleConfig(Section):
    """Resources of the run: workers, CPUs and GPUs."""

    workers: Positive = 1
    """DDP processes. `auto`: one for each GPU of all nodes, or one for each two cores of one machine, four at
    most; as many of these as divide the batch. In a search one a trial."""
    min_workers: Positive | None = None
    """Smallest number of processes with which the run goes on while nodes are missing; `workers` when absent.
    It uses as many as there is room for and the batch divides by, and more again when nodes come back. The
    fewer they are, the more of the batch each holds."""
    wait_s: Seconds = 1800.0
    """Seconds that the run waits for room for its workers before it ends; it can be continued."""
    collective_timeout_s: Seconds = 600.0
    """Seconds that workers wait for one that does not answer, rounded up; it may write files or compare
    features meanwhile."""
    cpus_per_worker: PositiveFloat = 1.0
    """CPUs that one worker reserves; its threads follow. `auto`: an equal share of what there is, on GPUs
    four at most; in a search 1."""
    gpus_per_worker: Annotated[float, Field(ge=0)] = 0.0
    """GPUs that one worker reserves; 0 trains on the CPU. `auto`: 1 where there is one for each worker."""

    @property
    def fewest(self) -> int:
        """`min_workers`, or `workers` when absent."""
        return self.min_workers or self.workers

    @property
    def threads(self) -> int:
        """Threads of a worker."""
        return max(1, int(self.cpus_per_worker))


def worker_counts(
    scale: ScaleConfig, batch: int, accumulate: int, pack: int, group: int = 1
) -> tuple[int, ...]:
    """Return the numbers of workers from `scale.workers` down to `scale.fewest` that divide a batch.

    A worker computes its part of a batch in `accumulate` portions, each a multiple of `pack` x `group`.

    Raises:
        ConflictError: `scale.workers` or `scale.min_workers` does not divide the batch.
    """
    workers, fewest = scale.workers, scale.fewest
    if batch % workers:
        below, above = batch - batch % workers, batch + workers - batch % workers
        nearest = f"{above}" if below == 0 else f"{below} or {above}"
        raise ConflictError(
            f"train.batch_size={batch} is the batch over all workers and must divide by "
            f"scale.workers={workers}: {batch} / {workers} = {batch / workers:g}",
            f"use {nearest}",
            keys=("train.batch_size", "scale.workers"),
        )
    portions = accumulate * pack * group
    factors = {"train.accumulate": accumulate, "model.pack": pack}
    if group > 1:
        factors["model.stddev_group"] = group
    named = [f"{key}={value}" for key, value in factors.items()]
    if batch % (workers * portions):
        portions *= workers
        raise ConflictError(
            f"train.batch_size={batch} must divide by scale.workers={workers} times {' times '.join(named)}: "
            f"{batch} / {portions} = {batch / portions:g}",
            f"use {batch - batch % portions + portions}",
            keys=("train.batch_size", "scale.workers", *factors),
        )
    if fewest > workers:
        raise ConflictError(
            f"scale.min_workers={fewest} is more than scale.workers={workers}, of which it is the least that "
            "the run goes on with",
            f"use {workers} or less",
            keys=("scale.min_workers", "scale.workers"),
        )
    every = [count for count in range(workers, 0, -1) if batch % (count * portions) == 0]
    if fewest not in every:
        above = min(count for count in every if count > fewest)
        below = max(count for count in every if count < fewest)
        raise ConflictError(
            f"scale.min_workers={fewest}: a run goes on with numbers of workers that divide its batch, and "
            f"train.batch_size={batch} / ({fewest} x {' x '.join(named)}) = {batch / (fewest * portions):g}",
            f"use {below} or {above}",
            keys=("scale.min_workers", "train.batch_size", *factors),
        )
    return tuple(count for count in every if count >= fewest)
