"""Changes to all that the discriminator sees, real and generated alike: few images are then enough.

Nothing is drawn here. The caller passes uniform numbers, one row for each image, and an image's change
depends on its own row alone: augmenting a part of the global batch is the same, to the last bit, as taking
that part of the augmented batch. Parameters are worked out in float64 for this too, since PyTorch's
elementary functions may differ in the last bit between one position in a batch and another.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from gan_dist.training.augment import ada, diffaugment


@dataclass(frozen=True)
class Augmentation:
    """An augmentation by name."""

    columns: int
    """How many uniform numbers each image needs."""
    apply: Callable[[Tensor, Tensor, float | Tensor], Tensor]
    """(images, draws, p) to images; those with a fixed strength do not read p."""

    def __call__(self, images: Tensor, draws: Tensor, p: float | Tensor) -> Tensor:
        """Augment images (B, C, H, W) with draws (B, columns) and strength p: `diffaugment` and `ada`.

        Raises:
            ValueError: images are not 4-D, or draws have another shape.
        """
        if images.ndim != 4:
            raise ValueError(f"images must have shape (B, C, H, W), not {tuple(images.shape)}")
        if draws.shape != (len(images), self.columns):
            raise ValueError(f"draws must have shape {(len(images), self.columns)}, not {tuple(draws.shape)}")
        return self.apply(images, draws, p)


def build(name: Literal["none", "diffaugment", "ada"]) -> Augmentation:
    """The augmentation that a configuration names; "none" returns the images themselves."""
    match name:
        case "none":
            return Augmentation(0, lambda images, draws, p: images)  # noqa: ARG005
        case "diffaugment":
            return Augmentation(
                diffaugment.COLUMNS,
                lambda images, draws, p: diffaugment.augment(images, draws),  # noqa: ARG005
            )
        case "ada":
            return Augmentation(ada.COLUMNS, ada.augment)
