"""Nearest training images of some samples of a run, by their pixels."""

from __future__ import annotations

import io
from functools import lru_cache
from typing import TypeAlias

import torch
from PIL import Image
from torch import Tensor

from gan_dist.config import DataConfig
from gan_dist.core import storage
from gan_dist.core.errors import GanDistError
from gan_dist.core.image_size import ImageSize
from gan_dist.core.images import image_grid, lay_on_white, split_grid, to_png
from gan_dist.data.batches.loader import open_images
from gan_dist.evaluation.images import RealImages
from gan_dist.report.blocks import Block, Note, Picture, Pictures, kimg
from gan_dist.report.pictures import evenly, newest_grid, reduce
from gan_dist.training.recorder import GRID

SAMPLES = 8
"""Samples whose nearest training images are searched."""
LARGEST = 2**29
"""Bytes of a set's pixels, at most, that are read for a page."""

Found: TypeAlias = tuple[bytes, tuple[float, ...]]


def nearest_training_images(run_uri: str, data: DataConfig, version: str = "") -> list[Block]:
    """Return samples of a run's last evaluation with the training image nearest to each, or why not.

    What was searched with a `version` that is not empty is not searched again.
    """
    if (grid := newest_grid(run_uri)) is None:
        return []
    search = _search if version else _search.__wrapped__
    try:
        content, distances = search(grid[1], data.path, data.resolution, data.fit, data.mirror, version)
    except (GanDistError, OSError, ValueError) as error:
        return [Note(f"They were not searched: {error}")]
    picture = reduce(content)
    mirrored = ", mirrored or not" if data.mirror else ""
    apart = ", ".join(f"{distance:.3g}" for distance in distances)
    text = (
        "Above, generated images of the last evaluation; below each the training image of the whole set that "
        f"is nearest to it by its pixels{mirrored}. They differ by {apart} grey levels of 255 (root mean "
        "square); a copy would differ by few. `gan-dist evaluate RELEASE --metrics memorisation` compares "
        "features, and tests for copying."
    )
    caption = f"After {kimg(1000 * grid[0])}, each above its nearest training image"
    return [*([Pictures([Picture(picture, caption)])] if picture else []), Note(text)]


@lru_cache(maxsize=16)
def _search(
    grid_uri: str, path: str, resolution: int | str | None, fit: str, mirror: bool, _version: str
) -> Found:
    """Return a grid of samples, each above its nearest training image, and the distances in grey levels."""
    images = open_images(path)
    manifest = images.manifest
    size = ImageSize.of(chosen := resolution or manifest.size.resolution)
    if (total := manifest.count * manifest.image_bytes) > LARGEST:
        raise ValueError(f"the set has {total / 1e9:.1f} GB of pixels, more than {LARGEST / 1e9:.1f}")
    with Image.open(io.BytesIO(storage.read_bytes(grid_uri)), formats=["PNG"]) as picture:
        samples = split_grid(picture, size, GRID)[evenly(range(GRID), SAMPLES)]
    samples = samples[:, : min(3, manifest.channels)]
    queries = _rows(torch.cat([samples, samples.flip(-1)]) if mirror else samples)
    real = RealImages(images, chosen, fit)
    least = torch.full((len(samples),), torch.inf, dtype=torch.float64)
    nearest = torch.zeros_like(samples)
    for group in real.groups:
        batch = lay_on_white(real.row_group(group)[1].images)
        for part in batch.split(max(1, 2**22 // queries.shape[1])):
            # Sums of products of whole numbers below 2^53 are exact in float64, in any order.
            rows = _rows(part)
            products = torch.addmm(rows.square().sum(1)[:, None], rows, queries.T, alpha=-2)
            squares = (products + queries.square().sum(1)).unflatten(1, (-1, len(samples))).amin(1)
            found, at = squares.min(0)
            nearest[found < least] = part[at[found < least]]
            least = torch.minimum(least, found)
    distances = (least / queries.shape[1]).sqrt()
    return to_png(image_grid(torch.cat([samples, nearest]), SAMPLES)), tuple(distances.tolist())


def _rows(images: Tensor) -> Tensor:
    return images.flatten(1).double()
