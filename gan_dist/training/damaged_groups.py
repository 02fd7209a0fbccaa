"""Finding a set's damaged row groups before training, all ranks together."""

from __future__ import annotations

import torch
import torch.distributed as dist

from gan_dist.config import RunConfig
from gan_dist.core.errors import DataError
from gan_dist.data.shards.manifest import ImageSet
from gan_dist.data.shards.verify import Without, find_damage
from gan_dist.training.context import Context


def usable(config: RunConfig, images: ImageSet, context: Context) -> tuple[ImageSet, int]:
    """Return the part of a set that can be trained on, and how many of its images were left out.

    Every rank reads a share of the set and gets the same answer. With `data.verify=raise` nothing is read:
    damage then stops the run when it is met.

    Raises:
        DataError: nothing of the set is whole.
    """
    count = len(images.group_rows)
    if config.data.verify == "raise":
        return images, 0
    damage = find_damage(images, range(context.rank, count, context.world_size))
    for sentence in damage.values():
        context.warn(f"left out: {sentence}")
    damaged = torch.zeros(count, dtype=torch.int32, device=context.device)
    damaged[list(damage)] = 1
    if context.world_size > 1:
        dist.all_reduce(damaged)
    groups = damaged.nonzero().flatten().tolist()
    if len(groups) == count:
        raise DataError(f"no row group of data.path={config.data.path} is whole", "pack the set again")
    return Without(images, groups), sum(images.group_rows[group] for group in groups)
