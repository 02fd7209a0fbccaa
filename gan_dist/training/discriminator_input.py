"""What the discriminator is shown: images that are augmented, and have noise on them."""

from __future__ import annotations

import torch
from torch import Tensor

from gan_dist.config import RunConfig
from gan_dist.training import augment
from gan_dist.training.checkpoint import TrainingState
from gan_dist.training.noise import StepNoise
from gan_dist.training.schedule import augment_p, instance_noise


class DiscriminatorInput:
    """Shows images to the discriminator as `data.augment` and `loss.instance_noise` have it.

    Args:
        config: The run.
        state: Tells the clock and the augmentation's strength.
        draws: The step's random numbers.
    """

    def __init__(self, config: RunConfig, state: TrainingState, draws: StepNoise) -> None:
        self._config = config
        self._state = state
        self._draws = draws
        self._augment = augment.build(config.data.augment)

    def __call__(self, images: Tensor, *names: str, portion: int) -> Tensor:
        """Return images (n, C, R, R) as they are shown; the images themselves where nothing is to be done.

        An image's change depends on its own numbers alone, so several portions that are shown together come
        out as when each is shown by itself.

        Args:
            images: Float; of several equal parts, one after the other, if there are several names.
            names: What the parts are, such as `reals-d`: each has random numbers of its own.
            portion: Which portion of this rank's images they are.
        """
        clock = self._state.images
        if columns := self._augment.columns:
            drawn = [self._draws.uniform(f"augment-{name}", (columns,), clock, portion) for name in names]
            strength = augment_p(self._config, self._state.augment.p, clock)
            images = self._augment(images, torch.cat(drawn), strength)
        if sigma := instance_noise(self._config.loss, clock):
            size = tuple(images.shape[1:])
            noise = [self._draws.normal(f"noise-{name}", size, clock, portion) for name in names]
            images = images + sigma * torch.cat(noise)
        return images
