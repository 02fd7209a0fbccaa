"""Directions of the latent space along which images change most, from the generator's weights alone.

Shen and Zhou 2021, "Closed-Form Factorization of Latent Semantics in GANs" (SeFa), section 2.2: the first
layer that takes latents z computes A z + b, and a step a n from z changes its output by a A n whatever z is.
The unit vectors n with the largest |A n| are the leading eigenvectors of A^T A. Generators that
map z to styles w first have their directions in w, and A is of all layers that take one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gan_dist.artifacts.points import Points, has_styles, images_near, images_of_w, w_of
from gan_dist.core import rng
from gan_dist.core.errors import DataError, NonFiniteError
from gan_dist.models.base import Generator
from gan_dist.models.generator import Release

LATENTS = 1000
"""Latents over which the standard deviation of w is measured."""


@dataclass(frozen=True)
class Directions:
    """Orthonormal directions, the leading one first."""

    vectors: Tensor
    """float32 (K, latent_dim), or (K, w_dim); of each the number largest in absolute value is positive."""
    singular_values: Tensor
    """float32 (K,): |A n| of each."""
    deviations: Tensor
    """float32 (K,): the standard deviation of latents, or of w, along each; 1 of latents."""


def directions(release: Release, count: int) -> Directions:
    """Return the leading directions of a generator, a function of its weights alone.

    Raises:
        DataError: `count` is below 1 or above the length of the latents, or the generator does not say which
            weights take its latents (`latent_weight`), or it is a mixture.
        NonFiniteError: one of these weights is NaN or infinite.
    """
    release.require_single("directions")
    generator = release.truncated(1).generator
    name = f"model.name={release.config.model.name}"
    weight = generator.latent_weight() if isinstance(generator, Generator) else None
    if weight is None:
        raise DataError(
            f"{name} does not say which weights take its latents, and directions are of these",
            "give its generator a method latent_weight (docs/extend.md)",
        )
    if not 1 <= count <= weight.shape[1]:
        what = f"{count} directions: what the layers of {name} take has {weight.shape[1]} numbers"
        raise DataError(what, f"ask for 1 to {weight.shape[1]}")
    matrix = weight.detach().cpu().double()
    if not matrix.isfinite().all():
        raise NonFiniteError(f"weights of {name} are not finite", "an earlier checkpoint may be whole")
    squares, columns = torch.linalg.eigh(matrix.T @ matrix)  # in ascending order
    leading = columns.T.flip(0)[:count]
    largest = leading.gather(1, leading.abs().argmax(1, keepdim=True))
    vectors = (leading * largest.sign()).float()
    values = squares.flip(0)[:count].clamp_min(0).sqrt().float()
    return Directions(vectors, values, _deviations(release, vectors))


def _deviations(release: Release, vectors: Tensor) -> Tensor:
    """Return the standard deviations of latents, or of w of all classes in turn, along directions."""
    if not has_styles(release):
        return torch.ones(len(vectors))
    latents = rng.normal((LATENTS, release.latent_dim), 0, "deviations")
    w = w_of(release.truncated(1), latents, release.classes(LATENTS))
    places: Tensor = w @ vectors.T
    return places.std(0)


def along(release: Release, points: Points, found: Directions, reach: float, columns: int = 7) -> Tensor:
    """Return images around each point along each direction, uint8 (n, K, columns, C, H, W).

    Columns go evenly from a = -`reach` to `reach`, in standard deviations: the image of z + a n, or of
    w + a s n, where s is the deviation. The one in the middle is the point's own, to the bit.

    Raises:
        DataError: `columns` is even or below 3.
        NonFiniteError: a pixel is NaN or infinite.
    """
    if columns < 3 or columns % 2 == 0:
        raise DataError(f"{columns} columns have none in the middle", "ask for 3, 5, 7, ...")
    places = torch.linspace(-reach, reach, columns)[:, None]
    rows = []
    for number, latents in enumerate(points.latents):
        classes = points.class_of(number, columns)
        for vector, deviation in zip(found.vectors, found.deviations, strict=True):
            steps = places * deviation * vector
            if points.w is None:
                images = images_near(release, latents.expand(columns, -1), classes, latents, steps)
            else:
                images = images_of_w(release, points.w[number] + steps, latents)
            images[columns // 2] = points.images[number]
            rows.append(images)
    table: Tensor = torch.stack(rows).unflatten(0, (len(points), -1))
    return table
