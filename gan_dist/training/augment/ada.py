"""Adaptive discriminator augmentation (ADA): its transforms, and the controller of their strength."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from gan_dist.config import DataConfig, Section
from gan_dist.training.augment import color, geometry
from gan_dist.training.augment.base import Augmentation
from gan_dist.training.augment.draws import gated, normal
from gan_dist.training.augment.wavelets import POWER, band_gains, filter_bands, filtered_warp

BGC = ("flip", "turn", "shift", "geom", "color")
"""The paper's pipeline of that name: blitting, geometry and colour."""
COLUMNS = {**geometry.COLUMNS, "color": color.COLUMNS, "filter": 2 * len(POWER), "noise": 2, "cutout": 3}
"""Uniform numbers for each image, by transform, in the order of application: gates, each before the values of
what it opens. `noise` has as many as an image has numbers besides, behind all others."""


class Ada(Augmentation):
    """ADA's transforms: Karras et al. 2020 (ADA), appendix B.

    Each transform of each image is applied with the probability p times its share, on its own. In order:

    - `flip`: x-flip, half the time.
    - `turn`: 0 to 3 quarter turns, which generated photographs may come to show.
    - `shift`: a translation by whole pixels, U(-1/8, 1/8) of the size in x and in y.
    - `geom`: scale 2^N(0, 0.2^2); a rotation by any angle, with the probability 1 - sqrt(1 - p); scale
      2^N(0, 0.2^2) in x and its inverse in y; a second such rotation; a translation by N(0, 0.125^2) of the
      size.
    - `color`: brightness + N(0, 0.2^2); contrast times 2^N(0, 0.5^2); luma flip (half the time); hue, a
      rotation about the grey axis by any angle; saturation times 2^N(0, 1).
    - `filter`: each of four bands of frequencies times 2^N(0, 1), at the same expected power of the image.
    - `noise`: normal noise on every number, with a standard deviation of |N(0, 0.1^2)|.
    - `cutout`: a part of half the height and half the width set to zero (mid-grey), its centre uniform over
      the image.

    All geometry is one look-up, with the paper's low-pass filter around it (`wavelets.filtered_warp`).
    `data.augment=ada` by itself is BGC with no such filter, as in the first version of gan-dist. Hue needs
    three channels; of four the last is alpha, which `color` leaves as it is. Any other number gets the rest,
    with the mean of the channels as luma; one channel is its own luma, so that saturation changes nothing, as
    in the paper's code.

    Images that it returns are not clamped. An image that no transform changes is returned to the last bit; so
    is the geometry of one that only changes in colour.
    """

    adaptive: ClassVar = True

    def __init__(self, data: DataConfig, settings: Section) -> None:
        super().__init__(data, settings)
        choice = data.augment
        transforms = BGC if isinstance(choice, str) else choice["ada"]
        self._shares = transforms if isinstance(transforms, dict) else dict.fromkeys(transforms, 1.0)
        self._warp = geometry.warp if isinstance(choice, str) else filtered_warp
        self._geometric = any(name in self._shares for name in geometry.COLUMNS)
        self._gates_and_values = sum(COLUMNS[name] for name in self._shares)

    def columns(self, shape: tuple[int, int, int]) -> int:
        channels, height, width = shape
        return self._gates_and_values + ("noise" in self._shares) * channels * height * width

    def __call__(self, images: Tensor, draws: Tensor, p: float | Tensor) -> Tensor:
        channels, height, width = images.shape[1:]
        columns = iter(draws[:, : self._gates_and_values].to(torch.float64).unbind(1))
        chance = torch.as_tensor(p, dtype=torch.float64, device=draws.device)
        chances = {name: chance * share for name, share in self._shares.items()}
        if self._geometric:
            maps = geometry.place_maps(columns, chances, height, width)
            images = self._warp(images, maps.to(images))
        if "color" in chances:
            images = color.recolour(
                images, color.channel_maps(columns, chances["color"], channels).to(images)
            )
        if "filter" in chances:
            images = filter_bands(images, band_gains(columns, chances["filter"]))
        if "noise" in chances:
            deviation = gated(columns, chances["noise"], lambda u: 0.1 * normal(u).abs(), 0)
            noise = normal(draws[:, self._gates_and_values :].double()).view(-1, *images.shape[1:])
            images = images + (deviation[:, None, None, None] * noise).to(images)
        if "cutout" in chances:
            opened = next(columns) < chances["cutout"]
            across, down = (_covered(next(columns), size) for size in (width, height))
            covered = opened[:, None, None] & down[:, :, None] & across[:, None, :]
            images = torch.where(covered[:, None].to(images.device), 0, images)
        return images


def _covered(centre: Tensor, size: int) -> Tensor:
    """Return whether a pixel's centre is within a quarter of the size of the cutout's, bool (B, size)."""
    places = (torch.arange(size, dtype=centre.dtype, device=centre.device) + 0.5) / size
    return (places - centre[:, None]).abs() < 1 / 4


def adjusted(p: float, sign_mean: float, images: int, *, target: float = 0.6, kimg: float = 500) -> float:
    """Strength after one adjustment: Karras et al. 2020 (ADA), section 3.

    The measure of overfitting is r_t = E[sign(D(real))]: 0 for a discriminator that is right half
    of the time, 1 for one that is right about all training images. p moves by a fixed step towards
    r_t = target. For losses that do not fix the middle between reals and fakes (`wgan`, `wgan-gp`, `rpgan`)
    the sign is that of D(real) - D(fake), pair by pair. Either way r_t is 2 a - 1, a being the accuracy on
    reals (`losses.Adversarial.accuracy`).

    Args:
        p: The strength so far, in [0, 1].
        sign_mean: r_t, all ranks, over the last discriminator update of each round since the last adjustment.
        images: Real images since the last adjustment, all ranks.
        target: The r_t to hold.
        kimg: Thousands of images in which p can go from 0 to 1.

    Returns:
        p + sign(sign_mean - target) * images / (1000 kimg), clamped to [0, 1].

    Raises:
        ValueError: p or sign_mean is outside its range or not a number, or kimg is not positive.
    """
    if not (0 <= p <= 1 and -1 <= sign_mean <= 1 and kimg > 0):
        raise ValueError(
            f"p {p} must be in [0, 1], the mean sign {sign_mean} in [-1, 1] and kimg {kimg} above 0"
        )
    direction = (sign_mean > target) - (sign_mean < target)
    return min(max(p + direction * images / (1000 * kimg), 0.0), 1.0)
