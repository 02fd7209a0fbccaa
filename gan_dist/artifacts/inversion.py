"""Inversion: the latent whose image is nearest to a picture, by gradient descent from several starts."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import cast

import torch
from torch import Tensor
from torch.optim.adam import adam

from gan_dist.artifacts.points import Points, has_styles, image_of
from gan_dist.core import rng, storage
from gan_dist.core.errors import DataError, NonFiniteError
from gan_dist.data.packing.decode import Decoding, RejectedError, decode
from gan_dist.models.base import Generator
from gan_dist.models.generator import BLOCK, Release, pieces
from gan_dist.models.styled import StyledGenerator

STEPS = 300
STARTS = 8
"""Latents that are optimised side by side."""
MOST_DRAWN, FEWEST_DRAWN, DRAWN_PIXELS = 4096, 64, 2**22
"""Latents drawn, of which the nearest are the starts: as many images as have these pixels, within limits."""
RATE = 0.1
"""Adam's learning rate, in standard deviations of what is optimised; it falls to 0 over the second half."""
BETAS, EPSILON = (0.9, 0.99), 1e-8


def read_picture(uri: str, release: Release) -> tuple[Tensor, bool]:
    """Return an image file as the generator's images are, and whether colours or transparency were left out.

    It is cropped and resized as `gan-dist pack` does.

    Returns:
        uint8 (C, H, W), and whether the file has more than the generator's C channels show.

    Raises:
        DataError: it is no whole, still picture of a known format, or the images have 2 channels or above 4.
        StorageError: it cannot be read.
    """
    channels = release.shape.channels
    if channels not in (1, 3, 4):
        what = f"the generator's images have {channels} channels, and those of a picture are 1, 3 or 4"
        raise DataError(what, "invert tensors of your own: gan_dist.artifacts.inversion.invert")
    try:
        wanted = Decoding(release.shape.resolution, channels, fit=release.config.data.fit)
        content = storage.read_bytes(uri)
        pixels = torch.tensor(decode(content, wanted).pixels)
        whole = torch.tensor(decode(content, replace(wanted, channels=4)).pixels)
    except RejectedError as error:
        raise DataError(f"{storage.redact(uri)}: {error}", "give another picture") from None
    coloured = bool((whole[..., :3] != whole[..., :1]).any())
    transparent = bool((whole[..., 3] < 255).any())
    return pixels.movedim(-1, 0), (coloured and channels == 1) or (transparent and channels < 4)


def psnr(image: Tensor, other: Tensor) -> float:
    """Return the peak signal-to-noise ratio of two uint8 images in dB, infinite if they are the same.

    It is 10 log10(255^2 / the mean squared difference).
    """
    mean_sq = float((image.double() - other.double()).square().mean())
    return 10 * math.log10(255**2 / mean_sq) if mean_sq else math.inf


def invert(
    release: Release,
    picture: Tensor,
    *,
    label: int | None = None,
    seed: int = 0,
    steps: int = STEPS,
    progress: Callable[[int], None] = lambda _: None,
) -> Points:
    """Return the latent whose image is nearest to a picture in mean squared difference, as far as was found.

    Of many latents drawn from N(0, 1) the STARTS with the nearest images are optimised by Adam (Kingma and Ba
    2015, algorithm 1), in float32 on the device of the generator. What is optimised is z or, where the
    generator has styles, w, the same for all layers, with the noise of the start (as in Karras et al. 2020,
    "Analyzing and Improving the Image Quality of StyleGAN", section 5, but for the noise, which is theirs to
    optimise, and their distance). On one machine the same arguments give the same bits.

    Args:
        release: The generator; its truncation is left out.
        picture: uint8 (C, H, W), of the shape of its images.
        label: Class of the image; of a conditional generator any, if absent: that of the nearest image.
        seed: Of the latents that are drawn.
        steps: Updates of each start.
        progress: Called with the number of steps so far.

    Returns:
        One point, on the CPU; its `w` is that of a generator with styles.

    Raises:
        DataError: the picture has another shape, or the generator no such class, or `steps` is below 1.
        NonFiniteError: the generator's images are not finite.
    """
    release, shape = release.truncated(1), release.shape
    expected = (shape.channels, *shape.size)
    if tuple(picture.shape) != expected:
        raise DataError(f"a picture of shape {tuple(picture.shape)}: the generator's have {expected}")
    if steps < 1:
        raise DataError(f"{steps} steps: 1 or more are needed")
    generator = cast(Generator, release.generator)
    target = picture.to(release.device).float() / 127.5 - 1
    # No TF32, and no kernels that add in another order each time.
    with torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False):
        latents, classes = _starts(release, target, label, seed)
        vectors, make, scale = latents, lambda z: generator(z, classes), 1.0
        if isinstance(generator, StyledGenerator):
            vectors, make, scale = _in_w(generator, latents, classes)
        vectors, distances = _descend(make, vectors, target, scale, steps, progress)
    best = int(distances.argmin())
    point = Points(
        latents=(latents if has_styles(release) else vectors)[best : best + 1].cpu(),
        classes=None if classes is None else classes[best : best + 1].cpu(),
        images=picture[None],
        w=vectors[best : best + 1].cpu() if has_styles(release) else None,
    )
    return replace(point, images=image_of(release, point)[None])


@torch.no_grad()
def _starts(release: Release, target: Tensor, label: int | None, seed: int) -> tuple[Tensor, Tensor | None]:
    """Return the latents and classes, of those drawn, whose images are nearest to a target."""
    area, device = release.shape.size.area, target.device
    count = max(FEWEST_DRAWN, min(MOST_DRAWN, DRAWN_PIXELS // area)) // BLOCK * BLOCK
    latents = rng.normal((count, release.latent_dim), seed, "inversion").to(device)
    classes = release.classes(count, None if label is None else [label] * count)
    classes = None if classes is None else classes.to(device)
    made = pieces(release.generator, latents, classes, area)
    nearest = torch.cat([_distances(images, target) for images in made]).argsort(stable=True)[:STARTS]
    return latents[nearest], None if classes is None else classes[nearest]


@torch.no_grad()
def _in_w(
    generator: StyledGenerator, latents: Tensor, classes: Tensor | None
) -> tuple[Tensor, Callable[[Tensor], Tensor], float]:
    """Return the w of latents, how images are made of w, and the standard deviation of w."""
    many = rng.normal((1000, generator.latent_dim), 0, "deviations").to(latents.device)
    labels = None if classes is None else classes[torch.arange(1000, device=classes.device) % len(classes)]
    scale = float(generator.map(many, labels)[:, 0].std(0).mean())

    def make(w: Tensor) -> Tensor:
        of_layers = w[:, None].expand(-1, generator.styles, -1)
        return generator.finished(generator.from_w(of_layers, latents))

    return generator.map(latents, classes)[:, 0], make, scale


def _descend(
    make: Callable[[Tensor], Tensor],
    vectors: Tensor,
    target: Tensor,
    scale: float,
    steps: int,
    progress: Callable[[int], None],
) -> tuple[Tensor, Tensor]:
    """Return vectors (n, D) after some steps of Adam, and the distances (n,) of their images.

    The vectors do not influence one another.
    """
    mean, square, count = torch.zeros_like(vectors), torch.zeros_like(vectors), torch.zeros(())
    vectors = vectors.clone()
    progress(0)
    for step in range(1, steps + 1):
        vectors.requires_grad_()
        distances = _distances(make(vectors), target)
        (gradient,) = torch.autograd.grad(distances.sum(), vectors)
        vectors.detach_()
        # The function: an object of torch.optim.Adam imports PyTorch's compiler, 4 s of a CPU.
        adam(
            params=[vectors],
            grads=[gradient],
            exp_avgs=[mean],
            exp_avg_sqs=[square],
            max_exp_avg_sqs=[],
            state_steps=[count],
            foreach=False,
            amsgrad=False,
            beta1=BETAS[0],
            beta2=BETAS[1],
            lr=RATE * scale * min(1.0, 2 * (1 - step / (steps + 1))),
            weight_decay=0,
            eps=EPSILON,
            maximize=False,
        )
        progress(step)
    with torch.no_grad():
        return vectors, _distances(make(vectors), target)


def _distances(images: Tensor, target: Tensor) -> Tensor:
    """Return the mean squared differences of images (n, C, H, W) from a target (C, H, W), float32 (n,).

    Where the target is black or white, values beyond -1 or 1 are no difference: they are shown as it is.
    """
    beyond = (images.detach() > 1) & (target >= 1) | (images.detach() < -1) & (target <= -1)
    distances: Tensor = (images - target).masked_fill(beyond, 0).square().flatten(1).mean(1)
    if not distances.isfinite().all():
        raise NonFiniteError(
            "images near the picture are not finite: the generator holds or computes NaN or infinity",
            "an earlier checkpoint may be whole",
        )
    return distances
