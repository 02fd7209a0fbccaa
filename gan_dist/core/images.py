"""Pictures of uint8 image tensors: single images, grids, and PNG files."""

from __future__ import annotations

import io
import math

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from gan_dist.core import storage
from gan_dist.core.image_size import ImageSize

GAP = 2
"""Pixels between the pictures of a grid."""


def to_picture(image: Tensor) -> Image.Image:
    """Return a uint8 image (C, H, W), C = 1, 3 or 4, as a picture of the same pixels: grey, RGB or RGBA."""
    return Image.fromarray(image.cpu().movedim(0, -1).squeeze(-1).contiguous().numpy())


def lay_on_white(images: Tensor) -> Tensor:
    """Return uint8 images (n, 4, H, W) as they look on white, (n, 3, H, W), and others as they are."""
    if images.shape[1] != 4:
        return images
    colours, alpha = images[:, :3].int(), images[:, 3:].int()
    return ((colours * alpha + 255 * (255 - alpha) + 127) // 255).to(images.dtype)


def image_grid(images: Tensor, columns: int | None = None) -> Image.Image:
    """Return uint8 images (n, C, H, W), C = 1, 3 or 4, as one near-square grid with thin gaps.

    Small images are enlarged by an integer factor to be readable. Those with alpha are laid on white.
    """
    height, width = images.shape[-2:]
    columns = min(len(images), columns or _columns(len(images), height, width))
    factor = _factor(height, width)
    size = width * factor, height * factor
    steps = size[0] + GAP, size[1] + GAP
    rows = -(-len(images) // columns)
    # torchvision's make_grid does the same, but its import is a third of every worker's start.
    grid = Image.new("RGB", (columns * steps[0] + GAP, rows * steps[1] + GAP), (32, 32, 32))
    for number, image in enumerate(lay_on_white(images.cpu())):
        picture = to_picture(image).resize(size, Image.Resampling.NEAREST)
        row, column = divmod(number, columns)
        grid.paste(picture, (column * steps[0] + GAP, row * steps[1] + GAP))
    return grid


def split_grid(grid: Image.Image, size: ImageSize, count: int) -> Tensor:
    """Return the images of a near-square grid that `image_grid` made: uint8 (count, 3, H, W).

    Raises ValueError if the picture is not such a grid.
    """
    height, width = size.height, size.width
    columns, factor = _columns(count, height, width), _factor(height, width)
    rows, steps = -(-count // columns), (height * factor + GAP, width * factor + GAP)
    if grid.size != (columns * steps[1] + GAP, rows * steps[0] + GAP):
        raise ValueError(f"the picture of {grid.size} pixels is not a grid of {count} images of {size}")
    pixels = torch.from_numpy(np.asarray(grid.convert("RGB")).copy()).movedim(-1, 0)[:, GAP:, GAP:]
    cells = pixels.unflatten(1, (rows, steps[0])).unflatten(3, (columns, steps[1]))
    cells = cells[:, :, : steps[0] - GAP : factor, :, : steps[1] - GAP : factor]  # (3, rows, H, columns, W)
    images: Tensor = cells.permute(1, 3, 0, 2, 4).flatten(0, 1)[:count]
    return images


def _columns(count: int, height: int, width: int) -> int:
    return math.ceil(math.sqrt(count * height / width))


def _factor(height: int, width: int) -> int:
    return max(1, 64 // max(height, width))


def write_png(uri: str, picture: Image.Image) -> None:
    """Write a picture as PNG."""
    storage.write_bytes(uri, to_png(picture))


def to_png(picture: Image.Image) -> bytes:
    """Return a picture as a PNG file."""
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()
