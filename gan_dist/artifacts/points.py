"""Points of a generator's latent space with their images, and images of the latents around them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

import torch
from safetensors import SafetensorError
from safetensors.torch import load as load_tensors
from torch import Tensor

from gan_dist.artifacts.sampling import images_of_seeds
from gan_dist.core import storage
from gan_dist.core.errors import DataError
from gan_dist.models.generator import BLOCK, Release, to_pixels
from gan_dist.models.mixture import Mixture
from gan_dist.models.release import to_safetensors
from gan_dist.models.styled import StyledGenerator
from gan_dist.models.truncation import Truncated


@dataclass(frozen=True)
class Points:
    """Latents and their images."""

    latents: Tensor
    """float32 (n, latent_dim)."""
    classes: Tensor | None
    """int64 (n,); None of a generator that has none."""
    images: Tensor
    """uint8 (n, C, H, W), with the bits that they have in a grid or as single files."""
    w: Tensor | None = None
    """float32 (n, w_dim), in place of those of the latents, whose noise they go with; None for these."""

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
    known = release.shape.classes
    labels = None if label is None else [label] * len(seeds)
    if known and label is None:
        labels = [seed % known for seed in seeds]
    classes = release.classes(len(seeds), labels)
    latents = torch.cat([release.latents([0], seed) for seed in seeds])
    return Points(latents, classes, torch.stack(list(images_of_seeds(release, seeds, label))))


def within_member(release: Release, points: Points) -> tuple[Release, Points]:
    """Return the member of a mixture that makes the image of the first point, and all points in it.

    Points of other members get the images of their latents in this one. Other releases and their points are
    returned as they are.
    """
    generator, member = release.generator, release.member_of(points.latents[0])
    if not isinstance(generator, Mixture):
        return release, points
    picked = generator.picked(points.latents.to(release.device)).cpu()
    latents = points.latents[:, : member.latent_dim]
    images = images_of(member, latents, points.classes)
    same = (picked == picked[0]).to(images.device)
    images[same] = points.images.to(images)[same]
    return member, Points(latents, points.classes, images)


def image_of(release: Release, point: Points) -> Tensor:
    """Return the image of one point's latent or, if it has one, w: uint8 (C, H, W)."""
    if point.w is not None:
        return images_of_w(release, point.w, point.latents[0])[0]
    return images_of(release, point.latents, point.classes)[0]


def of_files(release: Release, uris: Sequence[str]) -> Points:
    """Return the points that `to_file` has made files of.

    Raises:
        DataError: a file holds no latents, or those of another generator.
        NonFiniteError: a pixel is NaN or infinite.
        StorageError: one cannot be read.
    """
    found = [_of_file(release, uri) for uri in uris]
    classes = [point.classes for point in found if point.classes is not None]
    return Points(
        torch.cat([point.latents for point in found]),
        torch.cat(classes) if classes else None,
        torch.stack([image_of(release, point) for point in found]),
        torch.cat([_w(release, point) for point in found]) if has_styles(release) else None,
    )


def _w(release: Release, point: Points) -> Tensor:
    return w_of(release, point.latents, point.classes) if point.w is None else point.w


def _of_file(release: Release, uri: str) -> Points:
    """Return the point that a file holds, without its image."""
    shown, shape, generator = storage.redact(uri), release.shape, release.truncated(1).generator
    try:
        tensors = load_tensors(storage.read_bytes(uri))
    except SafetensorError as error:
        remedy = "give a file that gan-dist sample --like has written"
        raise DataError(f"{shown} holds no latents ({error})", remedy) from None
    sizes: dict[str, tuple[int, ...]] = {"latents": (1, release.latent_dim)}
    if shape.classes:
        sizes["labels"] = (1,)
    if isinstance(generator, StyledGenerator) and "w" in tensors:
        sizes["w"] = (1, *w_of(release, torch.zeros(1, generator.latent_dim), release.classes(1)).shape[1:])
    found = {name: tuple(tensor.shape) for name, tensor in tensors.items()}
    if found != sizes:
        what = f"{shown} holds {found or 'nothing'}, and this generator takes {sizes}"
        raise DataError(what, "give a file of this generator's own")
    classes = tensors.pop("labels", None)
    if not all(tensor.dtype == torch.float32 and tensor.isfinite().all() for tensor in tensors.values()):
        raise DataError(f"{shown} holds numbers that are not finite, or not float32", "make it again")
    if classes is not None:
        classes = release.classes(1, [int(classes)])
    return Points(tensors["latents"], classes, torch.empty(0), tensors.get("w"))


def to_file(point: Points) -> bytes:
    """Return a point as a safetensors file: `latents` and, if it has them, `w` and `labels` (int64)."""
    tensors = {"latents": point.latents}
    more = {"w": point.w, "labels": point.classes}
    return to_safetensors(tensors | {name: tensor for name, tensor in more.items() if tensor is not None})


def images_of(release: Release, latents: Tensor, classes: Tensor | None) -> Tensor:
    """Return the images of latents, uint8 (n, C, H, W), made BLOCK at a time, as those of `sample` are.

    Args:
        release: The generator.
        latents: float32 (n, latent_dim), n at least 1.
        classes: int64 (n,); None of a generator that has none.

    Raises:
        NonFiniteError: a pixel is NaN or infinite.
    """
    if classes is None:
        return _in_blocks(lambda part: release.images(part, None), latents)
    return _in_blocks(release.images, latents, classes)


def has_styles(release: Release) -> bool:
    """Return whether a release's generator maps latents to styles w."""
    return isinstance(release.generator, StyledGenerator | Truncated)


@torch.no_grad()
def w_of(release: Release, latents: Tensor, classes: Tensor | None) -> Tensor:
    """Return the w of latents (n, latent_dim) and classes (n,), float32 (n, w_dim), after truncation.

    The generator has styles.
    """
    generator = cast(StyledGenerator | Truncated, release.generator)
    device = release.device
    w = generator.map(latents.to(device), None if classes is None else classes.to(device))
    return w[:, 0].to(latents.device)


def images_near(
    release: Release, latents: Tensor, classes: Tensor | None, noise_of: Tensor, steps: Tensor | None = None
) -> Tensor:
    """Return the images of latents, or of what is some steps from them, uint8 (n, C, H, W).

    Where the generator has styles, all images have the noise of one latent: if each had its own, noise
    would hide how they differ.

    Args:
        release: The generator.
        latents: float32 (n, latent_dim), n at least 1.
        classes: int64 (n,); None of a generator that has none.
        noise_of: float32 (latent_dim,).
        steps: float32 (n, latent_dim) or, of a generator with styles, of w: (n, w_dim).

    Raises:
        NonFiniteError: a pixel is NaN or infinite.
    """
    if not has_styles(release):
        return images_of(release, latents if steps is None else latents + steps, classes)
    w = w_of(release, latents, classes)
    return images_of_w(release, w if steps is None else w + steps, noise_of)


@torch.no_grad()
def images_of_w(release: Release, w: Tensor, latent: Tensor) -> Tensor:
    """Return images of w, the same for all layers, uint8 (n, C, H, W), made BLOCK at a time.

    Args:
        release: Of a generator with styles. No truncation is applied.
        w: float32 (n, w_dim), n at least 1.
        latent: float32 (latent_dim,), whose noise all images have.

    Raises:
        NonFiniteError: a pixel is NaN or infinite.
    """
    generator = cast(StyledGenerator, release.truncated(1).generator)
    device = release.device
    if release.truncation == 0:  # all its images have this noise
        latent = torch.zeros_like(latent)

    def make(part: Tensor) -> Tensor:
        of_layers = part.to(device)[:, None].expand(-1, generator.styles, -1)
        images = generator.from_w(of_layers, latent.to(device).expand(len(part), -1))
        return to_pixels(generator.finished(images))

    return _in_blocks(make, w)


def _in_blocks(make: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
    """Return `make` of BLOCK rows of tensors (n, ...) at a time; the last row fills up the last block."""
    count = len(tensors[0])
    more = -count % BLOCK
    whole = [torch.cat([one, one[-1:].expand(more, *one.shape[1:])]).split(BLOCK) for one in tensors]
    return torch.cat([make(*block) for block in zip(*whole, strict=True)])[:count]
