"""Parts of an evaluation done by a cluster's processes."""

from __future__ import annotations

import heapq
from collections import Counter, deque
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import ray
import torch
from ray.exceptions import ObjectLostError, RayActorError

from gan_dist.config import ScaleConfig
from gan_dist.core.errors import WorkerError
from gan_dist.evaluation.shortage import memory_explained
from gan_dist.evaluation.tasks import Part, Request, Workers, studio

RETRIES = 3


@contextmanager
def ray_workers(scale: ScaleConfig) -> Iterator[Workers]:
    """Give workers that do up to `scale.workers` parts at a time; what is lost with one is done again.

    They are Ray's actors: a process keeps its GPU and its networks from part to part. (Ray ends a process
    after each task that had a GPU.) Where there is room for some of them only, these do all parts: from the
    start, or after a node has gone.

    The workers raise:
        CapacityError: a GPU's memory does not hold a part; nobody tries it again.
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
            processes.append(process.remote(scale.threads))
        return iter(_Done(processes, ray.put(request), parts))

    try:
        yield workers
    finally:
        for one in processes:
            ray.kill(one)


class _Process:
    """What an actor is."""

    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)

    @ray.method(max_task_retries=-1)
    def started(self) -> None:
        """Return as soon as there is such a process, be it started again."""

    def do(self, request: Request, part: Part) -> object:
        # A process that has reserved no GPU sees those of its node all the same.
        with memory_explained(request):
            return part(studio(request, gpu=bool(ray.get_gpu_ids())))


class _Done:
    """Iterates over the results of parts, in their order; whoever is free does the next part.

    Args:
        processes: Actors that are there or will be; those that are gone for good are taken out.
        request: What the parts belong to, as Ray keeps it.
        parts: The parts.
    """

    def __init__(self, processes: list[Any], request: Any, parts: Sequence[Part]) -> None:
        self._processes, self._request, self._parts = processes, request, parts
        self._busy: dict[Any, tuple[Any, int | None]] = {}
        """By what they will return: processes, each with the number of its part, or None while it starts."""
        self._idle: deque[Any] = deque()
        self._to_do = list(range(len(parts)))
        """A heap: what was lost comes first again."""
        self._lost: Counter[int] = Counter()

    def __iter__(self) -> Iterator[object]:
        self._await(self._processes)
        results: dict[int, object] = {}
        for number in range(len(self._parts)):
            while number not in results:
                # No more results than this wait for an earlier one.
                self._give_out(number + len(self._processes))
                (ended,), _ = ray.wait(list(self._busy), num_returns=1)
                one, part = self._busy.pop(ended)
                try:
                    result = _result(ended)
                except (RayActorError, ObjectLostError) as error:
                    self._do_without(one, part, error)
                else:
                    self._idle.append(one)
                    if part is not None:
                        results[part] = result
            yield results.pop(number)

    def _await(self, processes: Iterable[Any]) -> None:
        self._busy |= {one.started.remote(): (one, None) for one in processes}

    def _give_out(self, last: int) -> None:
        """Give parts up to the number `last` to those that are idle."""
        while self._idle and self._to_do and self._to_do[0] <= last:
            one, part = self._idle.popleft(), heapq.heappop(self._to_do)
            self._busy[one.do.remote(self._request, self._parts[part])] = one, part

    def _do_without(self, one: Any, part: int | None, error: Exception) -> None:
        """Go on after a process has gone.

        Raises:
            WorkerError: it does not come back, and was the last; or its part was lost too often.
        """
        if part is None:
            self._processes.remove(one)
            if not (self._busy or self._idle):
                said = f"the processes of the evaluation died, each more than {RETRIES} times"
                raise WorkerError(f"{said}: {error}") from error
            return
        self._lost[part] += 1
        if self._lost[part] > RETRIES:
            said = f"a part of the evaluation was lost {self._lost[part]} times, with whoever did it"
            raise WorkerError(f"{said}: {error}") from error
        heapq.heappush(self._to_do, part)
        # Those that are idle may be gone too. Who waits for a place to start again holds up nobody.
        self._await((one, *self._idle))
        self._idle.clear()


def _result(reference: Any) -> object:
    from gan_dist.data.batches.ray_reader import (
        plain_errors,  # brings Ray Data, which the processes do without
    )

    with plain_errors():
        return ray.get(reference)
