"""A pool of Ray actors that evaluates a release in tasks."""

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
from gan_dist.core.memory import explain_out_of_memory
from gan_dist.evaluation.tasks import Request, Task, TaskRunner, worker_for

RETRIES = 3


@contextmanager
def ray_workers(scale: ScaleConfig) -> Iterator[TaskRunner]:
    """Start up to `scale.workers` actors, which compute tasks at the same time and repeat lost ones.

    An actor keeps its GPU and its networks from task to task, unlike a Ray task. Where only some actors can
    be placed, from the start or after a node has gone, these compute all tasks.

    The workers raise:
        CapacityError: a GPU's memory does not hold a task; it is not repeated.
        WorkerError: a task was lost with its actor more than RETRIES times, or no actor is left.
    """
    actor = ray.remote(
        num_cpus=scale.cpus_per_worker,
        num_gpus=scale.gpus_per_worker,
        max_restarts=RETRIES,
        scheduling_strategy="SPREAD",
    )(_Actor)
    actors: list[Any] = []

    def workers(request: Request, tasks: Sequence[Task]) -> Iterator[object]:
        while len(actors) < min(scale.workers, len(tasks)):
            actors.append(actor.remote(scale.threads))
        return iter(_Results(actors, ray.put(request), tasks))

    try:
        yield workers
    finally:
        for handle in actors:
            ray.kill(handle)


class _Actor:
    def __init__(self, threads: int) -> None:
        torch.set_num_threads(threads)

    @ray.method(max_task_retries=-1)
    def started(self) -> None:
        """Return once the actor has started, or restarted."""

    def compute(self, request: Request, task: Task) -> object:
        # A process that has reserved no GPU sees those of its node all the same.
        with explain_out_of_memory(request.out_of_memory):
            return task(worker_for(request, gpu=bool(ray.get_gpu_ids())))


class _Results:
    """Results of tasks, in their order, by actors that need not be placed yet; dead ones are removed."""

    def __init__(self, actors: list[Any], request: Any, tasks: Sequence[Task]) -> None:
        self._actors, self._request, self._tasks = actors, request, tasks
        self._busy: dict[Any, tuple[Any, int | None]] = {}
        """By pending result: the actor and the number of its task, or None while the actor starts."""
        self._idle: deque[Any] = deque()
        self._pending = list(range(len(tasks)))
        """A heap of the numbers of tasks: a lost task comes first again."""
        self._losses: Counter[int] = Counter()

    def __iter__(self) -> Iterator[object]:
        # This imports Ray Data, which the actors do without.
        from gan_dist.data.batches.ray_reader import plain_errors

        self._await_start(self._actors)
        results: dict[int, object] = {}
        for number in range(len(self._tasks)):
            while number not in results:
                # This bounds the results that wait for an earlier one.
                self._assign(number + len(self._actors))
                (ended,), _ = ray.wait(list(self._busy), num_returns=1)
                actor, task = self._busy.pop(ended)
                try:
                    with plain_errors():
                        result = ray.get(ended)
                except (RayActorError, ObjectLostError) as error:
                    self._handle_loss(actor, task, error)
                else:
                    self._idle.append(actor)
                    if task is not None:
                        results[task] = result
            yield results.pop(number)

    def _await_start(self, actors: Iterable[Any]) -> None:
        self._busy |= {actor.started.remote(): (actor, None) for actor in actors}

    def _assign(self, last: int) -> None:
        while self._idle and self._pending and self._pending[0] <= last:
            actor, task = self._idle.popleft(), heapq.heappop(self._pending)
            self._busy[actor.compute.remote(self._request, self._tasks[task])] = actor, task

    def _handle_loss(self, actor: Any, task: int | None, error: Exception) -> None:
        """Repeat the task of a dead actor; raise a WorkerError if all are gone or it was lost too often."""
        if task is None:
            self._actors.remove(actor)
            if not (self._busy or self._idle):
                what = f"the processes of the evaluation died, each more than {RETRIES} times"
                raise WorkerError(f"{what}: {error}") from error
            return
        self._losses[task] += 1
        if self._losses[task] > RETRIES:
            what = f"a part of the evaluation was lost {self._losses[task]} times, with whoever did it"
            raise WorkerError(f"{what}: {error}") from error
        heapq.heappush(self._pending, task)
        # Idle actors may be gone, too. One that waits to be placed again delays no other.
        self._await_start((actor, *self._idle))
        self._idle.clear()
