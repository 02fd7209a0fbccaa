"""Parts of an evaluation done by a cluster's processes."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Any

import ray
import torch

from gan_dist.config import ScaleConfig
from gan_dist.evaluation.work import Part, Request, Workers, studio

RETRIES = 3


def ray_workers(scale: ScaleConfig) -> Workers:
    """Return workers that do `scale.workers` parts at a time, as Ray tasks; lost ones are done again."""
    task = ray.remote(
        num_cpus=scale.cpus_per_worker,
        num_gpus=scale.gpus_per_worker,
        max_retries=RETRIES,
        scheduling_strategy="SPREAD",
    )(_do)

    def workers(request: Request, parts: Sequence[Part]) -> Iterator[object]:
        kept_request = ray.put(request)
        # One more than can run, so that a free process finds work at once.
        running: deque[Any] = deque()
        for part in parts:
            if len(running) > scale.workers:
                yield _result(running.popleft())
            running.append(task.remote(kept_request, part, scale.cpus_per_worker))
        while running:
            yield _result(running.popleft())

    return workers


def _do(request: Request, part: Part, cpus: float) -> object:
    torch.set_num_threads(max(1, int(cpus)))
    # A task that has reserved no GPU sees those of its node all the same.
    return part(studio(request, gpu=bool(ray.get_gpu_ids())))


def _result(reference: Any) -> object:
    from gan_dist.data.stream import plain_errors  # brings Ray Data, which the tasks do without

    with plain_errors():
        return ray.get(reference)
