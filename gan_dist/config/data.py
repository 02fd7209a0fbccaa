"""The part of a configuration that names the image set, its order and its augmentation."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from gan_dist.config.augment import AugmentField, augment_name, format_augment
from gan_dist.config.section import ConflictError, Positive, PositiveFloat, Section, Setting
from gan_dist.core.image_size import Fit, WrittenSize


class DataConfig(Section):
    """The image set, its order and its augmentation."""

    path: str
    """Shards made by `gan-dist pack`, or a built-in set: `builtin://digits` (of some classes:
    `builtin://digits?classes=5-9`), `builtin://stacked-digits`, `builtin://shapes?count=N&resolution=R`."""
    resolution: Positive | WrittenSize | None = None
    """Size in pixels to which images are resized when they are read: the edge of a square, or `WIDTHxHEIGHT`
    as in 512x384; the shards' own when absent."""
    fit: Fit = "crop"
    """How images of another aspect get the resolution: `crop` cuts out the largest centred part, `pad` adds
    borders, black or (where there is alpha) transparent, `pad:white` or `pad:ff8000` of that colour, and
    `stretch` changes the aspect."""
    channels: Literal[1, 3, 4] | None = None
    """Channels of the images: 1 is grey, 3 RGB, 4 RGB and alpha. Images that are packed for the run get them
    (3 when absent); a packed set has its own."""
    cache: Literal["auto", "memory", "stream"] = "auto"
    """`memory` holds the decoded set in every worker; `stream` reads shards during training;
    `auto` takes memory for sets of up to 256 MiB of pixels. The order of images is the same."""
    mirror: bool = False
    """Mirror real images left to right at random. For sets in which the sides do not matter: faces, but not
    digits."""
    augment: AugmentField = "none"
    """Augmentation of the discriminator's images, real and generated: `diffaugment` changes all of them in
    colour, place and by cutting out a square; `ada` changes each with a probability that rises while the
    discriminator is too sure of the reals. For sets of up to some tens of thousands of images. With
    transforms of your choice: `{diffaugment: [color, translation, cutout]}`; `{ada: [blit, geom, color,
    filter, noise, cutout]}`, where `blit` is short for `flip` and `shift`, and `turn` adds quarter turns; or
    each with its share of the probability, `{ada: {blit: 1, geom: 1, color: 0.5}}`. Or your own class, as
    `package.module:Class`."""
    augment_settings: dict[str, Setting] = Field(default={})
    """Keys of that augmentation alone; its class says which there are."""
    augment_target: Annotated[float, Field(ge=-1, le=1)] = 0.6
    """`ada`: how sure of the reals the discriminator may be before the probability rises: 2 a - 1, with a the
    share of reals that it judges rightly (recorded as `real_accuracy`), so 0.6 is 80 %."""
    augment_kimg: PositiveFloat = 500.0
    """`ada`: thousands of images in which the probability can rise from 0 to 1."""
    augment_p: Annotated[float, Field(ge=0, le=1)] | None = None
    """`ada`: the probability to which it rises from 0 by `optim.schedule` (at once where that is constant),
    however sure the discriminator is (R3GAN: 0.3, for CIFAR-10 0.55); adapted when absent."""
    verify: Literal["raise", "quarantine"] = "raise"
    """Reaction to a damaged row group: `raise` names it and stops the run; `quarantine` reads the whole set
    once before training, names what is damaged, and trains on the rest."""
    disk_cache_gb: Annotated[float, Field(ge=0, le=1e9)] = 0.0
    """Gigabytes (10^9 bytes) of each node's disk that may hold row groups fetched from object storage;
    0 fetches them anew in every epoch."""
    disk_cache_dir: str = "~/.cache/gan-dist"
    """Where a node keeps them."""
    streams: Annotated[int, Field(gt=0, le=2**16)] | None = None
    """Number of canonical streams that the global order is woven from; chosen from the set when absent.
    Up to this many workers read disjoint rows."""
    window: Positive = 16384
    """Images over which order is shuffled at once, over all streams together. More mixes better and holds
    more memory: two to three times `window` images, divided among the workers, and a dozen row groups each.
    A set that is larger is shuffled in blocks: whole row groups in random order, rows within a window."""

    @model_validator(mode="after")
    def _probability_agrees(self) -> DataConfig:
        if self.augment_p is None:
            return self
        if augment_name(self.augment) in ("none", "diffaugment"):
            raise ConflictError(
                f"data.augment_p={self.augment_p:g} is a probability of ada's changes, which "
                f"data.augment={format_augment(self.augment)} does not make",
                "set data.augment=ada, or data.augment_p=null",
                keys=("data.augment_p", "data.augment"),
            )
        for key in ("augment_target", "augment_kimg"):
            value, usual = getattr(self, key), type(self).model_fields[key].default
            if value != usual:
                raise ConflictError(
                    f"data.{key}={value:g} contradicts data.augment_p={self.augment_p:g}: a probability that "
                    "is given is not adapted",
                    f"set data.{key}={usual:g}, or data.augment_p=null",
                    keys=(f"data.{key}", "data.augment_p"),
                )
        return self
