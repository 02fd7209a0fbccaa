"""A loss and an augmentation as a user writes them, of which gan_dist/ knows nothing."""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import relu

from gan_dist import Adversarial, Augmentation, Section


class LossSettings(Section):
    """Keys of `loss.settings`."""

    margin: Annotated[float, Field(gt=0)] = 1.0
    """Logits beyond which a real or a fake counts no more."""


class Margin(Adversarial):
    """The hinge loss with a margin of one's choice."""

    Settings = LossSettings

    def discriminator(self, real_logits: Tensor, fake_logits: Tensor) -> Tensor:
        margin = self.settings.margin
        return relu(margin - real_logits).mean() + relu(margin + fake_logits).mean()

    def generator(self, fake_logits: Tensor, real_logits: Tensor | None) -> Tensor:
        return -fake_logits.mean()


class AugmentSettings(Section):
    """Keys of `data.augment_settings`."""

    strength: Annotated[float, Field(gt=0, le=1)] = 0.5
    """How much darker an image becomes at most."""


class Darken(Augmentation):
    """Multiplies each image by a number of its own, with the probability p."""

    Settings = AugmentSettings
    adaptive = True

    def columns(self, shape: tuple[int, int, int]) -> int:
        return 2

    def __call__(self, images: Tensor, draws: Tensor, p: float | Tensor) -> Tensor:
        draws = draws.to(images)
        factor = torch.where(draws[:, 0] < p, 1 - self.settings.strength * draws[:, 1], 1)
        return images * factor[:, None, None, None]
