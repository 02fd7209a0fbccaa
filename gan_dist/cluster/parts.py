"""Parts of an evaluation done by a cluster's processes."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import torch
from ray.exceptions import ObjectLostError, RayActorError

from gan_dist.config import ScaleConfig
from gan_dist.errors import WorkerError
from gan_dist.evaluation.work import Part, Request, Workers, studio

RETRIES = 3


@contextmanager
def ray_workers(scale: ScaleConfig) -> Iterator[Workers]:
    """Give workers that do up to `scale.workers` parts at a time; what is lost with one is done again.

    They are Ray's actors: a process keeps its GPU and its networks from part to part. (Ray ends a process
    after each task that had a GPU.) Where there is room for some of them only, these do all parts: from the
    start, or after a node has gone.

    The workers raise:
        WorkerError: a part was lost with its process more than RETRIES times, or no process is left.
    """
    process = ray.remote(
        num_cpus=scale.cpus_per_worker,
        num_gpus=scale.gpus_per_worker,
        max_restarts=RETRIES,
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

    @ray.method(max_task_retries=-1)
    def started(self) -> None:
        """Return as soon as there is such a process, be it started again."""

    def do(self, request: Request, part: Part) -> object:
        # A process that has reserved no GPU sees those of its node all the same.
        return part(studio(request, gpu=bool(ray.get_gpu_ids())))


def _done(processes: list[Any], request: Any, parts: Sequence[Part]) -> Iterator[object]:
    """Give each part to whoever is free, and yield the results in the order of the parts.

    Processes that are gone for good are taken out of `processes`.
    """
    busy: dict[Any, tuple[Any, int | None]] = {one.started.remote(): (one, None) for one in processes}
    idle: deque[Any] = deque()
    to_do = list(range(len(parts)))  # a heap: what was lost comes first again
    lost: Counter[int] = Counter()
    results: dict[int, object] = {}
    for number in range(len(parts)):
        while number not in results:
            # No more results than this wait for an earlier one.
            while idle and to_do and to_do[0] <= number + len(processes):
                one, given = idle.popleft(), heapq.heappop(to_do)
                busy[one.do.remote(request, parts[given])] = one, given
            (ended,), _ = ray.wait(list(busy), num_returns=1)
            one, part = busy.pop(ended)
            try:
                result = _result(ended)
            except (RayActorError, ObjectLostError) as error:
                if part is None:
                    processes.remove(one)
                    if not (busy or idle):
                        said = f"the processes of the evaluation died, each more than {RETRIES} times"
                        raise WorkerError(f"{said}: {error}") from error
                    continue
                lost[part] += 1
                if lost[part] > RETRIES:
                    said = f"a part of the evaluation was lost {lost[part]} times, with whoever did it"
                    raise WorkerError(f"{said}: {error}") from error
                heapq.heappush(to_do, part)
                # Those that are idle may be gone too. Who waits for a place to start again holds up nobody.
                busy |= {other.started.remote(): (other, None) for other in (one, *idle)}
                idle.clear()
            else:
                idle.append(one)
                if part is not None:
                    results[part] = result
        yield results.pop(number)


def _result(reference: Any) -> object:
    from gan_dist.data.stream import plain_errors  # brings Ray Data, which the processes do without

    with plain_errors():
        return ray.get(reference)
