"""Points of a generator's latent space with their images: of seeds, and of files of latents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from gan_dist.artifacts.sampling import images_of_seeds
from gan_dist.models.generator import Release


@dataclass(frozen=True)
class Points:
    """Latents and their images."""

    latents: Tensor
    """float32 (n, latent_dim)."""
    classes: Tensor | None
    """int64 (n,); None of a generator that has none."""
    images: Tensor
    """uint8 (n, C, H, W), with the bits that they have in a grid or as single files."""

    def __len__(self) -> int:
        return len(self.latents)

    def class_of(self, number: int, count: int) -> Tensor | None:
        """Return the class of a point for `count` images, int64 (count,)."""
        return None if self.classes is None else self.classes[number].expand(count)


def of_numbers(release: Release, n: int, seed: int = 0, label: int | None = None) -> Points:
    """Return the points of `release.sample(n, seed)`; raise what that does.

    `label` is the class of all images; all classes in turn when absent.
    """
    labels = None if label is None else [label] * n
    return Points(
        release.latents(range(n), seed), release.classes(n, labels), release.sample(n, seed, labels)
    )


def of_seeds(release: Release, seeds: Sequence[int], label: int | None = None) -> Points:
    """Return the points of image 0 of each seed, of the classes of `images_of_seeds`.

    Raises:
        DataError: no seeds, or a label for a generator that has none, or not among its classes.
        NonFiniteError: a pixel is NaN or infinite.
    """
    classes = release.shape.classes
    labels = [seed % classes for seed in seeds] if classes and label is None else None
    return Points(
        torch.cat([release.latents([0], seed) for seed in seeds]) if seeds else torch.empty(0),
        release.classes(len(seeds), [label] * len(seeds) if label is not None else labels),
        torch.stack(list(images_of_seeds(release, seeds, label))),
    )
