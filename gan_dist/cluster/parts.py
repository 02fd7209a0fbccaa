"""Parts of an evaluation done by a cluster's processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import torch
from ray.exceptions import RayActorError

from gan_dist.config import ScaleConfig
from gan_dist.errors import WorkerError
from gan_dist.evaluation.work import Part, Request, Workers, studio

RETRIES = 3


@contextmanager
def ray_workers(scale: ScaleConfig) -> Iterator[Workers]:
    """Give workers that do up to `scale.workers` parts at a time; what is lost with one is done again.

    They are Ray's actors: a process keeps its GPU and its networks from part to part. (Ray ends a process
    after each task that had a GPU.) Where there is room for some of them only, these do all parts.

    The workers raise:
        WorkerError: a process died more often than it is started again.
    """
    process = ray.remote(
        num_cpus=scale.cpus_per_worker,
        num_gpus=scale.gpus_per_worker,
        max_restarts=RETRIES,
        max_task_retries=RETRIES,
        scheduling_strategy="SPREAD",
    )(_Process)
    processes: list[Any] = []

    def workers(request: Request, parts: Sequence[Part]) -> Iterator[object]:
        while len(processes) < min(scale.workers, len(parts)):
            processes.append(process.remote(scale.cpus_per_worker))
        return _done(processes, ray.put(request), parts)

    try:
        yield workers
    finally:
        for one in processes:
            ray.kill(one)


class _Process:
    """What an actor is."""

    def __init__(self, cpus: float) -> None:
        torch.set_num_threads(max(1, int(cpus)))

    def started(self) -> None:
        """Return as soon as there is such a process."""

    def do(self, request: Request, part: Part) -> object:
        # A process that has reserved no GPU sees those of its node all the same.
        return part(studio(request, gpu=bool(ray.get_gpu_ids())))


def _done(processes: Sequence[Any], request: Any, parts: Sequence[Part]) -> Iterator[object]:
    """Give each part to whoever is free, and yield the results in the order of the parts."""
    busy = {one.started.remote(): one for one in processes}
    idle: deque[Any] = deque()
    to_do, results = deque(parts), deque[Any]()
    while to_do or results:
        # No more results than this wait for an earlier one.
        while to_do and idle and len(results) <= len(processes):
            one = idle.popleft()
            result = one.do.remote(request, to_do.popleft())
            results.append(result)
            busy[result] = one
        if results and results[0] not in busy:
            yield _result(results.popleft())
        else:
            (ended,), _ = ray.wait(list(busy), num_returns=1)
            idle.append(busy.pop(ended))


def _result(reference: Any) -> object:
    from gan_dist.data.stream import plain_errors  # brings Ray Data, which the processes do without

    try:
        with plain_errors():
            return ray.get(reference)
    except RayActorError as error:
        raise WorkerError(
            f"a process of the evaluation died more often than it is started again ({RETRIES}): {error}"
        ) from error
