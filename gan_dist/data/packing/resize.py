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

FILTERS = {
    "lanczos": Image.Resampling.LANCZOS,
    "bicubic": Image.Resampling.BICUBIC,
    "bilinear": Image.Resampling.BILINEAR,
    "box": Image.Resampling.BOX,
}
TORCH_SINCE = {"bilinear": (2, 11), "bicubic": (2, 11), "lanczos": (2, 12)}
"""The first version, of those that gan-dist runs with, whose antialiasing has the filter."""


def resizer(kind: str) -> str:
    """Return the library that resizes with a filter here, with its version: it decides the last bits.

    A build's name (`+cu130`) is left out; the kernels are the processor's.
    """
    return f"PyTorch {_torch_version().public}" if _has_torch(kind) else f"Pillow {PIL.__version__}"


def resize(image: Image.Image, box: tuple[int, int, int, int], edge: int, kind: str) -> npt.NDArray[np.uint8]:
    """Return a square part of a picture, resized.

    Args:
        image: Of mode RGB or L.
        box: The part's left, top, right and bottom, in pixels, as in `Image.crop`.
        edge: Pixels of the result's edge, R.
        kind: A key of `FILTERS`.

    Returns:
        uint8 (R, R, C), C 3 or 1.
    """
    left, top, right, bottom = box
    if right - left == edge or not _has_torch(kind):
        pixels = np.asarray(image.crop(box).resize((edge, edge), FILTERS[kind]))
        return pixels.reshape(edge, edge, -1)
    part = np.array(np.asarray(image)[top:bottom, left:right])
    return _resize_by_torch(part.reshape(bottom - top, right - left, -1), edge, kind)


def _resize_by_torch(pixels: npt.NDArray[np.uint8], edge: int, kind: str) -> npt.NDArray[np.uint8]:
    import torch  # takes two seconds: whoever plans a packing, or takes no part in resizing, need not wait

    maps = torch.from_numpy(pixels).permute(2, 0, 1)[None]
    resized = torch.nn.functional.interpolate(maps, (edge, edge), mode=kind, antialias=True)
    return np.ascontiguousarray(resized[0].permute(1, 2, 0).numpy())


def _has_torch(kind: str) -> bool:
    return kind in TORCH_SINCE and _torch_version().release >= TORCH_SINCE[kind]


@cache
def _torch_version() -> Version:
    return Version(version("torch"))
