"""Options of the verb `sample` that mix styles: their checks and their call."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from gan_dist.core.errors import GanDistError

if TYPE_CHECKING:
    from PIL import Image

    from gan_dist.models.generator import Release


def check_mixing(
    seeds: str | None, mix: str | None, mix_from: int | None, others: Mapping[str, object]
) -> None:
    """Refuse a table that cannot be made, and options of a table without one, without a look at any file.

    `others` are the values of the options that do not go with a table.
    """
    if mix is None:
        if mix_from is not None:
            what = f"--mix-from {mix_from} is for a table of mixed styles"
            raise GanDistError(what, "add --mix LIST, or leave --mix-from out")
        return
    if seeds is None:
        what = f"--mix {mix[:80]} gives the rows of a table, whose columns are those of --seeds"
        raise GanDistError(what, "add --seeds LIST")
    if given := [option for option, value in others.items() if value]:
        what = f"--mix {mix[:80]} makes one picture, which {given[0]} does not go with"
        raise GanDistError(what, f"leave {given[0]} or --mix out")


def mixed(
    generator: Release, coarse: Sequence[int], fine: Sequence[int], first_fine: int | None, label: int | None
) -> Image.Image:
    """Return the table of mixed styles as one picture."""
    from gan_dist.artifacts.mixing import mixing_table
    from gan_dist.core.images import image_grid

    table = mixing_table(generator, coarse, fine, first_fine, label)
    return image_grid(table.flatten(0, 1), columns=table.shape[1])
