"""Random numbers of a step: drawn for the whole global batch; each rank uses its own part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from gan_dist.config import TrainConfig
from gan_dist.core import rng
from gan_dist.core.distributed import Process
from gan_dist.models import Generator
from gan_dist.models.styled import StyledGenerator, mix
from gan_dist.training.state import TrainingState


@dataclass
class StepNoise:
    """Random numbers as pure functions of the seed, a name and the images seen, by micro-batch."""

    seed: int
    train: TrainConfig
    state: TrainingState
    process: Process
    _images: int = field(default=-1, init=False)
    _drawn: dict[str, tuple[Tensor, ...]] = field(default_factory=dict, init=False)

    def normal(self, name: str, shape: tuple[int, ...], micro_batch: int) -> Tensor:
        """Return N(0, 1) numbers float32 (n, *shape) for the n images of a micro-batch."""
        return self._part(rng.normal, name, shape, micro_batch)

    def uniform(self, name: str, shape: tuple[int, ...], micro_batch: int) -> Tensor:
        """Return numbers in [0, 1), float32 (n, *shape), likewise."""
        return self._part(rng.uniform, name, shape, micro_batch)

    def _part(
        self, draw: Callable[..., Tensor], name: str, shape: tuple[int, ...], micro_batch: int
    ) -> Tensor:
        images, process = self.state.images, self.process
        if images != self._images:
            self._images = images
            self._drawn.clear()
        if name not in self._drawn:
            numbers = draw((self.train.batch_size, *shape), self.seed, name, images)
            part = numbers.chunk(process.world_size)[process.rank]
            if process.device.type == "cuda":
                part = part.pin_memory()  # copied while the device computes, and without waiting for it
            self._drawn[name] = part.to(process.device, non_blocking=True).chunk(self.train.accumulate)
        return self._drawn[name][micro_batch]


def latents(noise: StepNoise, name: str, generator: Generator, micro_batch: int) -> Tensor:
    """Return a generator's latents for the n images of a micro-batch, float32 (n, latent_dim) from N(0, 1).

    If it mixes styles they are (n, styles, latent_dim): with the probability `style_mixing` an image has two
    latents, the second one from a style on that is uniform in [1, styles - 1].
    """
    shape = (generator.latent_dim,)
    drawn = noise.normal(name, shape, micro_batch)
    if not isinstance(generator, StyledGenerator) or not generator.style_mixing:
        return drawn
    styles = generator.styles
    mixed = noise.uniform(f"mixed-{name}", (), micro_batch) < generator.style_mixing
    place = noise.uniform(f"crossover-{name}", (), micro_batch)
    crossover = 1 + (place * (styles - 1)).long().clamp(max=styles - 2)
    second = noise.normal(f"second-{name}", shape, micro_batch)
    return mix(drawn, second, crossover.where(mixed, styles), styles)
