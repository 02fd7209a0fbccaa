"""A table of images that have the coarse styles of some images and the fine ones of others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from gan_dist.artifacts.points import of_seeds
from gan_dist.core.errors import DataError
from gan_dist.models.generator import Release
from gan_dist.models.styled import mix


def mixing_table(
    release: Release,
    coarse: Sequence[int],
    fine: Sequence[int],
    first_fine: int | None = None,
    label: int | None = None,
) -> Tensor:
    """Return a table of images, uint8 (1 + len(fine), 1 + len(coarse), C, H, W), as in Karras et al. 2019.

    Row 0 has the images of the seeds `coarse`, column 0 those of the seeds `fine`, and their corner is black.
    The others have the coarse styles, the class and the noise of their column, and the fine styles of their
    row.

    Args:
        release: Of a generator with styles.
        coarse: Seeds of the columns.
        fine: Seeds of the rows.
        first_fine: Number of the first style that is of the row: two for each resolution from 4 on. The half
            of all when absent.
        label: Class of all images, as in `images_of_seeds`.

    Raises:
        DataError: the generator has no styles, or not as many; or what `images_of_seeds` raises.
        NonFiniteError: a pixel is NaN or infinite.
    """
    styles = release.styles
    first_fine = styles // 2 if first_fine is None else first_fine
    if not 0 < first_fine < styles:
        raise DataError(
            f"style {first_fine} cannot be the first fine one of {styles}", f"name one from 1 to {styles - 1}"
        )
    columns, rows = of_seeds(release, coarse, label), of_seeds(release, fine, label)
    table = [torch.cat([torch.zeros_like(columns.images[:1]), columns.images])]
    for row in range(len(rows)):
        of_row = rows.latents[row].expand_as(columns.latents)
        latents = mix(columns.latents, of_row, torch.full((len(columns),), first_fine), styles)
        table.append(torch.cat([rows.images[row][None], release.images(latents, columns.classes)]))
    return torch.stack(table)
