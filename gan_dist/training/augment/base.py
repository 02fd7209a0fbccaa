"""Base class of all augmentations."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar

from torch import Tensor

from gan_dist.config import DataConfig, Section


class Augmentation(ABC):
    """Changes images, each by numbers of its own, before the discriminator sees them.

    It is one of the package's own, or a user's, `data.augment=package.module:Class`.

    It draws no random numbers: it gets uniform numbers, one row for each image, and the change of an image
    depends on its own row alone. So the augmentation of a part of a batch equals that part of the augmented
    batch, and any number of workers trains the same. For this to be so to the last bit, the package's own
    compute their parameters in float64: PyTorch's elementary functions may differ in the last bit between
    positions in a batch.
    """

    Settings: ClassVar[type[Section]] = Section
    """Its keys of `data.augment_settings`, as a pydantic model whose fields all have defaults."""
    adaptive: ClassVar[bool] = False
    """Whether it changes images with a probability p, which ADA's controller or `data.augment_p` sets."""

    def __init__(self, data: DataConfig, settings: Section) -> None:
        self.data = data
        self.settings: Any = settings
        """An object of `Settings`."""

    @abstractmethod
    def columns(self, shape: tuple[int, int, int]) -> int:
        """Return how many uniform numbers an image of a shape (C, H, W) needs."""

    @abstractmethod
    def __call__(self, images: Tensor, draws: Tensor, p: float | Tensor) -> Tensor:
        """Return augmented images, of the same shape, type and device.

        Args:
            images: Float (B, C, H, W) around [-1, 1], any memory format. Gradients pass through, twice where
                the discriminator's are penalised.
            draws: float32 (B, columns), uniform in [0, 1), on any device.
            p: The probability of a change, in [0, 1], a number or a 0-dim tensor; others than adaptive
                augmentations ignore it.
        """


class Unchanged(Augmentation):
    """`data.augment=none`."""

    def columns(self, shape: tuple[int, int, int]) -> int:
        return 0

    def __call__(self, images: Tensor, draws: Tensor, p: float | Tensor) -> Tensor:
        return images
