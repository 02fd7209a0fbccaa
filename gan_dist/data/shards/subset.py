"""A set without its damaged row groups: what `data.verify=quarantine` trains on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from gan_dist.core.errors import DataError
from gan_dist.data.shards.manifest import ImageSet, Manifest
from gan_dist.data.shards.rows import Rows


class Without:
    """A set of which some groups are left out; the others keep their order and are numbered anew.

    Args:
        images: The whole set.
        groups: The groups to leave out.
    """

    def __init__(self, images: ImageSet, groups: Sequence[int]) -> None:
        left_out = set(groups)
        self._images = images
        self.kept = [group for group in range(len(images.group_rows)) if group not in left_out]
        """The groups that are left, by their numbers in the whole set."""
        self.group_rows = tuple(images.group_rows[group] for group in self.kept)
        self.manifest: Manifest = images.manifest

    def read_group(self, group: int) -> Rows:
        return self._images.read_group(self.kept[group])

    def read_parts(self, group: int) -> Iterator[tuple[int, Rows]]:
        return self._images.read_parts(self.kept[group])


def find_damage(images: ImageSet, groups: Sequence[int]) -> dict[int, str]:
    """Read some groups and return what is wrong with each that cannot be read whole."""
    damage = {}
    for group in groups:
        try:
            images.read_group(group)
        except DataError as error:
            damage[group] = str(error)
    return damage
