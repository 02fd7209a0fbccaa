"""What is said where a GPU's memory does not hold an evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from gan_dist.core.memory import shortage_explained
from gan_dist.evaluation.tasks import Request


@contextmanager
def memory_explained(request: Request) -> Iterator[None]:
    """Explain which options lessen the memory of an evaluation, where the device runs out of it.

    Raises:
        CapacityError: it does.
    """
    with shortage_explained(lambda: _remedies(request)):
        yield


def _remedies(request: Request) -> str:
    asked = ",".join(("fid", *request.metrics))
    smaller = f"fewer of --metrics {asked}, --samples below {request.samples}, " if request.metrics else ""
    return (
        f"a GPU's memory does not hold the evaluation of --metrics {asked} with --samples {request.samples}. "
        f"Use {smaller}--gpus-per-worker 1 where workers share a GPU, or GPUs with more memory; or end what "
        "else runs on them"
    )
