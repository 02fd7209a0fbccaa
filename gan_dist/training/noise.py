"""Random numbers of a step: drawn for the whole global batch; each rank uses its own part."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gan_dist.core import rng
from gan_dist.core.distributed import Process


class StepNoise:
    """Random numbers as pure functions of the seed, a name and the images seen, by micro-batch.

    Args:
        seed: Of the run.
        batch_size: Images of the global batch.
        accumulate: Micro-batches in a rank's part of it.
        process: This process.
    """

    def __init__(self, seed: int, batch_size: int, accumulate: int, process: Process) -> None:
        self._seed, self._batch_size, self._accumulate = seed, batch_size, accumulate
        self._process = process
        self._images = -1
        self._drawn: dict[str, tuple[Tensor, ...]] = {}

    def normal(self, name: str, shape: tuple[int, ...], images: int, micro_batch: int) -> Tensor:
        """Return N(0, 1) numbers float32 (n, *shape) for the n images of a micro-batch, at `images` seen."""
        return self._part(rng.normal, name, shape, images, micro_batch)

    def uniform(self, name: str, shape: tuple[int, ...], images: int, micro_batch: int) -> Tensor:
        """Return numbers in [0, 1), float32 (n, *shape), likewise."""
        return self._part(rng.uniform, name, shape, images, micro_batch)

    def _part(
        self, draw: Callable[..., Tensor], name: str, shape: tuple[int, ...], images: int, micro_batch: int
    ) -> Tensor:
        if images != self._images:
            self._images = images
            self._drawn.clear()
        if name not in self._drawn:
            process = self._process
            numbers = draw((self._batch_size, *shape), self._seed, name, images)
            part = numbers.chunk(process.world_size)[process.rank]
            if process.device.type == "cuda":
                part = part.pin_memory()  # copied while the device computes, and without waiting for it
            self._drawn[name] = part.to(process.device, non_blocking=True).chunk(self._accumulate)
        return self._drawn[name][micro_batch]
