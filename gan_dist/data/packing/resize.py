"""Antialiased resizing of 8-bit pictures, by PyTorch where it has the filter, else by Pillow.

PyTorch's kernels use SIMD: four times as fast as Pillow's. Both compute in integers, so a library's pixels
are the same on every processor. Between the two they differ by at most 2 of 255, in under 1 % of the values,
since PyTorch keeps a filter's weights in 16 bits and Pillow in 32.
"""

from __future__ import annotations

from functools import cache
from importlib.metadata import version

import numpy as np
import numpy.typing as npt
import PIL
from packaging.version import Version
from PIL import Image

from gan_dist.core.image_size import ImageSize

FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}
TORCH_SINCE = {"bilinear": (2, 11), "bicubic": (2, 11), "lanczos": (2, 12)}
"""The first version, of those that gan-dist runs with, whose antialiasing has the filter."""


def resizer(kind: str, channels: int = 3) -> str:
    """Return the library that resizes with a filter here, with its version: it decides the last bits.

    A build's name (`+cu130`) is left out; the kernels are the processor's.
    """
    has_torch = channels != 4 and _has_torch(kind)
    return f"PyTorch {_torch_version().public}" if has_torch else f"Pillow {PIL.__version__}"


def resize(
    image: Image.Image, box: tuple[int, int, int, int], resolution: int | str, kind: str
) -> npt.NDArray[np.uint8]:
    """Return a part of a picture of mode RGB, L or RGBA, resized: uint8 (H, W, C), C 3, 1 or 4.

    `box` is the part's left, top, right and bottom, in pixels, as in `Image.crop`; `resolution` the edge of a
    square, or `WIDTHxHEIGHT`; `kind` a key of `FILTERS`. Pillow alone resizes RGBA: it weighs colours by
    their alpha.
    """
    left, top, right, bottom = box
    size = ImageSize.of(resolution)
    if (bottom - top, right - left) == size or image.mode == "RGBA" or not _has_torch(kind):
        pixels = np.asarray(image.crop(box).resize((size.width, size.height), FILTERS[kind]))
        return pixels.reshape(*size, -1)
    import torch  # takes two seconds: whoever plans a packing, or takes no part in resizing, need not wait

    part = np.array(np.asarray(image)[top:bottom, left:right])
    maps = torch.from_numpy(part.reshape(bottom - top, right - left, -1)).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(maps, size, mode=kind, antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def _has_torch(kind: str) -> bool:
    return kind in TORCH_SINCE and _torch_version().release >= TORCH_SINCE[kind]


@cache
def _torch_version() -> Version:
    return Version(version("torch"))
