"""The random numbers of a step: drawn for the whole global batch, of which each rank takes its own part."""

from __future__ import annotations

from collections.abc import Callable

from torch import Tensor

from gan_dist.config import RunConfig
from gan_dist.core import rng
from gan_dist.training.context import Context


class StepNoise:
    """Numbers as pure functions of the seed, a name and the clock, for one portion of this rank's images.

    Args:
        config: The run.
        context: The process that this is.
    """

    def __init__(self, config: RunConfig, context: Context) -> None:
        self._config = config
        self._context = context
        self._at = -1
        self._drawn: dict[str, tuple[Tensor, ...]] = {}

    def normal(self, name: str, shape: tuple[int, ...], images: int, portion: int) -> Tensor:
        """Return N(0, 1) numbers float32 (n, *shape) for the n images of a portion, at the clock `images`."""
        return self._mine(rng.normal, name, shape, images, portion)

    def uniform(self, name: str, shape: tuple[int, ...], images: int, portion: int) -> Tensor:
        """Return numbers in [0, 1), float32 (n, *shape), likewise."""
        return self._mine(rng.uniform, name, shape, images, portion)

    def _mine(
        self, draw: Callable[..., Tensor], name: str, shape: tuple[int, ...], images: int, portion: int
    ) -> Tensor:
        if images != self._at:
            self._at = images
            self._drawn.clear()
        if name not in self._drawn:
            train, context = self._config.train, self._context
            whole = draw((train.batch_size, *shape), self._config.seed, name, images)
            mine = whole.chunk(context.world_size)[context.rank]
            if context.device.type == "cuda":
                mine = mine.pin_memory()  # copied while the device computes, and without waiting for it
            self._drawn[name] = mine.to(context.device, non_blocking=True).chunk(train.accumulate)
        return self._drawn[name][portion]
