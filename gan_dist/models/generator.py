"""Images of a generator: uint8, and the same bits for every number of images."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Annotated

import torch
from pydantic import Field, TypeAdapter
from torch import Tensor, nn
from torch.nn import functional

from gan_dist.config import RunConfig
from gan_dist.core import rng
from gan_dist.core.errors import DataError, NonFiniteError, closest
from gan_dist.core.image_size import ImageSize, WrittenSize
from gan_dist.models.mixture import Mixture
from gan_dist.models.sizes import LARGEST
from gan_dist.models.styled import StyledGenerator
from gan_dist.models.truncation import Truncated

BLOCK = 8
"""Batch size of `sample`, also for fewer images: it changes the last bits of an image."""
SHOWN = 10
"""Names of classes that a message lists."""


@dataclass(frozen=True)
class ImageShape:
    """Shape of the generated images: channels, height and width."""

    resolution: Annotated[int, Field(gt=0, le=LARGEST)] | WrittenSize
    """Edge of square images in pixels; `WIDTHxHEIGHT` of others."""
    channels: Annotated[int, Field(gt=0, le=LARGEST)]
    classes: Annotated[int, Field(ge=0, le=LARGEST)] = 0
    """Classes of conditional networks; 0 for unconditional ones."""
    class_names: tuple[str, ...] = ()
    """Names of the classes by their numbers; empty where the set has none, and in files before 0.3."""

    @property
    def size(self) -> ImageSize:
        """Height and width in pixels."""
        return ImageSize.of(self.resolution)

    @classmethod
    def from_json(cls, content: bytes) -> ImageShape:
        """Return the shape that a `shape.json` holds; raise a ValueError if it holds none."""
        return TypeAdapter(cls).validate_json(content)

    def class_number(self, label: int | str) -> int:
        """Return the number of a class that is given by its name or its number; a name goes first.

        Raises:
            DataError: there is no such class, or there are no classes.
        """
        if not self.classes:
            raise DataError(f"class {label}: the generator was trained without classes", "ask for none")
        if isinstance(label, str) and label in self.class_names:
            return self.class_names.index(label)
        try:
            number = int(label)
        except ValueError:
            number = -1
        if 0 <= number < self.classes:
            return number
        what = f"class {label}: the generator has the classes 0 to {self.classes - 1}"
        if not self.class_names:
            raise DataError(what, "name one of these numbers")
        near = closest(str(label), self.class_names)
        shown = ", ".join(self.class_names[:SHOWN]) + (", ..." if self.classes > SHOWN else "")
        raise DataError(f"{what}, named {shown}", f"the nearest is {near}" if near else "name one of these")


@dataclass(frozen=True)
class Release:
    """A generator that is ready to use, as `gan_dist.load` returns it."""

    generator: nn.Module
    """Takes latents (n, latent_dim), float32, and classes (n,), int64, where it is conditional; returns
    images (n, C, H, W), in which -1 is black and 1 is white; values may lie beyond if not `bounded`."""
    config: RunConfig
    shape: ImageShape
    record: Mapping[str, object] = field(default_factory=dict)
    """Its measurements by name; empty for a checkpoint."""
    truncation: float = 1.0
    """psi of `truncated`."""

    def truncated(self, psi: float) -> Release:
        """Return this with the truncation trick: see `Truncated`. With psi = 1 it is this itself.

        Raises:
            DataError: the generator has no w, or psi is not finite.
        """
        if not math.isfinite(psi):
            raise DataError(f"truncation {psi}: a finite number is needed", "use one from 0 to 1")
        if psi == 1 and self.truncation == 1:
            return self
        generator = self.generator
        if isinstance(generator, Mixture):
            members = [self._truncated(member, psi) for member in generator.members]
            mixture = Mixture(members, generator.weights, generator.latent_dims)
            return replace(self, generator=mixture.to(self.device), truncation=psi)
        return replace(self, generator=self._truncated(generator, psi), truncation=psi)

    def _truncated(self, generator: nn.Module, psi: float) -> nn.Module:
        means = generator.means if isinstance(generator, Truncated) else None
        if isinstance(generator, Truncated):
            generator = generator.generator
        if not isinstance(generator, StyledGenerator):
            raise self._no_w(f"truncation {psi:g}")
        return Truncated(generator, psi, means) if psi != 1 else generator

    @property
    def latent_dim(self) -> int:
        """Numbers of a latent; a mixture takes one more than its members (`Mixture`)."""
        return int(getattr(self.generator, "latent_dim", self.config.model.latent_dim))

    @property
    def device(self) -> torch.device:
        """Where the generator is."""
        return next(self.generator.parameters()).device

    def member_of(self, latent: Tensor) -> Release:
        """Return the member of a mixture that makes the image of a latent (latent_dim,); else this itself.

        Its latents are the first numbers of the mixture's.
        """
        if not isinstance(self.generator, Mixture):
            return self
        number = int(self.generator.picked(latent[None].to(self.device)))
        return replace(self, generator=self.generator.members[number])

    def require_single(self, what: str) -> None:
        """Raise a DataError if this is a mixture; `what` needs one generator."""
        if isinstance(self.generator, Mixture):
            raise DataError(
                f"{what} needs one generator, and this release is a mixture of {len(self.generator.members)}",
                "use a release of one: gan-dist best SEARCH --to DIR",
            )

    @property
    def styles(self) -> int:
        """Number of styles of an image; latents of `images` may be (n, styles, latent_dim) then.

        Raises:
            DataError: the generator has no w, or this is a mixture.
        """
        self.require_single("mixing of styles")
        if not isinstance(self.generator, StyledGenerator | Truncated):
            raise self._no_w("mixing of styles")
        return self.generator.styles

    def _no_w(self, what: str) -> DataError:
        name = self.config.model.name
        return DataError(
            f"{what} needs a generator with styles w, which model.name={name} has not",
            "use a release of model.name=stylegan2, or leave it out",
            keys=("model.name",),
        )

    @property
    def bounded(self) -> bool:
        """Whether all values of its images are in [-1, 1]; otherwise what lies beyond is to be clamped."""
        return bool(getattr(self.generator, "tanh", True))

    def sample(self, n: int, seed: int = 0, labels: Sequence[int | str] | None = None) -> Tensor:
        """Return `n` images, uint8 (n, C, H, W). The first k of a seed are the same for every n >= k.

        Args:
            n: How many.
            seed: Of the latents.
            labels: Classes of the `n` images by number or name, for a conditional generator; all classes in
                turn if None.

        Raises:
            DataError: `n` is below 1, or labels for a generator that has none, not `n` of them, or not among
                its classes.
            NonFiniteError: a pixel is NaN or infinite.
        """
        return torch.cat(list(self.stream(n, seed, labels)))

    def stream(
        self, n: int, seed: int = 0, labels: Sequence[int | str] | None = None, *, first: int = 0
    ) -> Iterator[Tensor]:
        """Return an iterator over the images of `sample` from number `first` on, at most BLOCK at a time.

        Arguments and errors are those of `sample`; a DataError is raised before the first image is made.
        """
        classes = self.classes(n, labels)
        starts = range(first // BLOCK * BLOCK, n, BLOCK)
        return (self._block(start, seed, classes)[max(first - start, 0) : n - start] for start in starts)

    def _block(self, start: int, seed: int, classes: Tensor | None) -> Tensor:
        """Return images `start` to `start` + BLOCK - 1, those beyond the last class with class 0."""
        if classes is not None:
            classes = classes[start : start + BLOCK]
            classes = functional.pad(classes, (0, BLOCK - len(classes)))
        return self.images(self.latents(range(start, start + BLOCK), seed), classes)

    def latents(self, numbers: Iterable[int], seed: int = 0) -> Tensor:
        """Return the latents of a seed's images by their numbers, float32 (len(numbers), latent_dim)."""
        size = (self.latent_dim,)
        return torch.stack([rng.normal(size, seed, "sample", number) for number in numbers])

    def classes(self, n: int, labels: Sequence[int | str] | None = None) -> Tensor | None:
        """Return the classes of `n` images, int64 (n,); None of a generator that has none.

        Raises:
            DataError: `n` is below 1, or labels for a generator that has none, not `n` of them, or not among
                its classes.
        """
        if n < 1:
            raise DataError(f"{n} images: ask for 1 or more")
        known = self.shape.classes
        if not known:
            if labels is not None:
                raise DataError("this generator was trained without classes", "ask for none")
            return None
        if labels is not None and len(labels) != n:
            raise DataError(f"{len(labels)} classes for {n} images", f"name {n}, as many as there are images")
        of_images = [index % known for index in range(n)] if labels is None else labels
        return torch.tensor([self.shape.class_number(label) for label in of_images], dtype=torch.int64)

    @torch.no_grad()
    def images(self, latents: Tensor, classes: Tensor | None) -> Tensor:
        """Return the images of latents, uint8 (n, C, H, W).

        Args:
            latents: (n, latent_dim), float32; or (n, styles, latent_dim), for a generator with styles.
            classes: (n,), int64; None for a generator that has none.

        Raises:
            NonFiniteError: a pixel is NaN or infinite.
        """
        classes = None if classes is None else classes.to(self.device)
        return generate(self.generator, latents.to(self.device), classes, self.shape.size.area)


def generate(
    generator: nn.Module,
    latents: Tensor,
    classes: Tensor | None,
    area: int,
    named: str = "the generated images",
) -> Tensor:
    """Return a generator's images of latents, uint8 (n, C, H, W), where the latents are.

    `area` is the number of pixels of an image.

    Raises:
        NonFiniteError: a pixel is NaN or infinite; the message calls the images what `named` says.
    """
    made = pieces(generator, latents, classes, area)
    return torch.cat([to_pixels(images, named) for images in made])


def pieces(generator: nn.Module, latents: Tensor, classes: Tensor | None, area: int) -> Iterator[Tensor]:
    """Yield a generator's images of latents, as many at a time as memory is likely to hold.

    These are 256 up to an `area` of 128 x 128 pixels, and fewer above it.
    """
    size = max(8, min(256, 2**22 // area))
    for start in range(0, len(latents), size):
        part = slice(start, start + size)
        yield generator(latents[part], None if classes is None else classes[part])


def to_pixels(images: Tensor, named: str = "the generated images") -> Tensor:
    """Return images of a generator as uint8, or raise a NonFiniteError if a number is NaN or infinite."""
    if not images.isfinite().all():
        raise NonFiniteError(
            f"of {named} some are not finite: the generator holds or computes NaN or infinity",
            "an earlier checkpoint may be whole",
        )
    return to_uint8(images)


def to_uint8(images: Tensor) -> Tensor:
    """Return images as uint8, rounded to the nearest level: 0 for -1 and below, 255 for 1 and above."""
    return images.add(1).mul_(127.5).round_().clamp_(0, 255).to(torch.uint8)
