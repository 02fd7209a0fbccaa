from __future__ import annotations

import hashlib
import io
import math
import subprocess
import sys
from contextlib import redirect_stdout
from importlib import metadata
from typing import Any

import numpy as np
import numpy.typing as npt
import PIL
import pytest
from packaging.version import Version
from PIL import Image

from gan_dist.data.packing import resize as resizing
from gan_dist.data.packing.resize import FILTERS, resize, resizer

Array = npt.NDArray[Any]

SUPPORT = {"lanczos": 3.0, "bicubic": 2.0, "bilinear": 1.0, "box": 0.5}
BY_TORCH = ("lanczos", "bicubic", "bilinear")


def weight(kind: str, x: float) -> float:
    """Lanczos of 3 lobes, Keys's cubic with a = -0.5, a triangle; a box takes all that its reach holds."""
    if kind == "box":
        return 1.0
    x = abs(x)
    if kind == "bilinear":
        return max(0.0, 1 - x)
    if kind == "bicubic":
        if x < 1:
            return 1.5 * x**3 - 2.5 * x**2 + 1
        return -0.5 * (x**3 - 5 * x**2 + 8 * x - 4) if x < 2 else 0.0
    lobes: float = np.sinc(x) * np.sinc(x / 3)
    return lobes if x < 3 else 0.0


def matrix(kind: str, old: int, new: int) -> Array:
    """Return float64 (new, old): what each new pixel takes of the old ones, in one direction."""
    scale = old / new
    stretched = max(1.0, scale)
    rows = np.zeros((new, old))
    for row in range(new):
        centre = (row + 0.5) * scale
        reach = SUPPORT[kind] * stretched
        first, last = max(0, math.floor(centre - reach + 0.5)), min(old, math.floor(centre + reach + 0.5))
        for column in range(first, last):
            rows[row, column] = weight(kind, (column + 0.5 - centre) / stretched)
    rows /= rows.sum(1, keepdims=True)
    return rows


def rounded(values: Array) -> Array:
    """Halves go up, but for what float64 makes of them."""
    whole: Array = np.clip(np.floor(values + 0.5 + 1e-9), 0, 255)
    return whole


def reference(pixels: Array, edge: int, kind: str) -> Array:
    """Resize the rows, round, resize the columns, round: float64 of whole numbers."""
    weights = matrix(kind, len(pixels), edge)
    across = rounded(np.einsum("ij,yjc->yic", weights, pixels.astype(float)))
    return rounded(np.einsum("ij,jxc->ixc", weights, across))


def drawn(random: np.random.Generator, size: int, channels: int) -> Array:
    """Noise, black and white, or a smooth picture."""
    kind = random.integers(3)
    if kind == 0:
        return random.integers(0, 256, (size, size, channels), dtype=np.uint8)
    if kind == 1:
        return (random.integers(0, 2, (size, size, channels)) * 255).astype(np.uint8)
    coarse = Image.fromarray(random.integers(0, 256, (9, 9, 3), dtype=np.uint8))
    smooth: Array = np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC))
    return smooth[..., :channels].copy()


def pillow(pixels: Array) -> Image.Image:
    return Image.fromarray(pixels if pixels.shape[2] == 3 else pixels[..., 0])


@pytest.mark.parametrize("kind", FILTERS)
def test_the_pixels_are_those_of_the_filter_in_float64(kind: str) -> None:
    random = np.random.default_rng(0)
    errors = []
    for _ in range(60):
        size, edge = int(random.integers(1, 200)), int(random.choice([1, 7, 8, 16, 32, 64, 100]))
        pixels = drawn(random, size, int(random.choice([1, 3])))
        resized = resize(pillow(pixels), (0, 0, size, size), edge, kind)
        assert resized.dtype == np.uint8
        errors.append(np.abs(resized - reference(pixels, edge, kind)).reshape(-1))
    of_all = np.concatenate(errors)
    assert of_all.max() <= 2
    assert of_all.mean() < 0.01


@pytest.mark.parametrize("kind", BY_TORCH)
def test_pictures_of_thousands_of_pixels_become_few(kind: str) -> None:
    pixels = drawn(np.random.default_rng(1), 3000, 3)
    resized = resize(pillow(pixels), (0, 0, 3000, 3000), 8, kind)
    by_pillow = np.asarray(pillow(pixels).resize((8, 8), FILTERS[kind]))
    assert np.abs(resized.astype(int) - by_pillow).max() <= 1


@pytest.mark.parametrize("kind", FILTERS)
@pytest.mark.parametrize("channels", [1, 3])
def test_only_the_box_is_seen(kind: str, channels: int) -> None:
    pixels = drawn(np.random.default_rng(2), 60, channels)
    inside = np.ascontiguousarray(pixels[20:50, 5:35])
    alone = resize(pillow(inside), (0, 0, 30, 30), 16, kind)
    np.testing.assert_array_equal(resize(pillow(pixels), (5, 20, 35, 50), 16, kind), alone)
    as_it_is = resize(pillow(pixels), (5, 20, 35, 50), 30, kind)
    np.testing.assert_array_equal(as_it_is, inside)


def test_shrinking_averages_what_it_leaves_out() -> None:
    """A checkerboard of single pixels becomes grey; without antialiasing it would be black or white."""
    board = Image.fromarray(((np.indices((64, 64)).sum(0) % 2) * 255).astype(np.uint8))
    for kind in FILTERS:
        pixels = resize(board, (0, 0, 64, 64), 16, kind)
        assert np.abs(pixels.astype(float) - 127.5)[2:-2, 2:-2].max() < 3


DIGESTS = f"""
import hashlib, numpy as np, torch
from PIL import Image
from gan_dist.data.packing.resize import resize
torch.set_num_threads({{threads}})
random = np.random.default_rng(3)
digest = hashlib.sha256()
for kind in {BY_TORCH}:
    for size, edge in ((5, 8), (33, 8), (178, 64), (40, 64)):
        for shape in ((size, size, 3), (size, size)):
            pixels = Image.fromarray(random.integers(0, 256, shape, dtype=np.uint8))
            digest.update(resize(pixels, (0, 0, size, size), edge, kind))
print(digest.hexdigest())
"""


@pytest.mark.parametrize(
    "others", [[("default", 3)], pytest.param([("avx512", 1), ("avx2", 3)], marks=pytest.mark.soak)]
)
def test_every_instruction_set_and_number_of_threads_gives_the_same_bytes(
    others: list[tuple[str, int]],
) -> None:
    """The nodes of a cluster need not be alike."""
    shown = io.StringIO()
    with redirect_stdout(shown):
        exec(DIGESTS.format(threads=1), {})  # on all that this machine has
    digests = {shown.getvalue().encode()}
    for capability, threads in others:
        code = DIGESTS.format(threads=threads)
        environment = {"ATEN_CPU_CAPABILITY": capability}
        done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, check=True)
        digests.add(done.stdout)
    assert len(digests) == 1
    assert len(digests.pop().strip()) == len(hashlib.sha256().hexdigest())


def test_the_library_that_resizes_is_named_without_its_build(monkeypatch: pytest.MonkeyPatch) -> None:
    installed, pillow_here = metadata.version("torch").partition("+")[0], f"Pillow {PIL.__version__}"
    assert {kind: resizer(kind) for kind in FILTERS} == {
        "lanczos": f"PyTorch {installed}" if Version(installed) >= Version("2.12") else pillow_here,
        "bicubic": f"PyTorch {installed}",
        "bilinear": f"PyTorch {installed}",
        "box": pillow_here,
    }
    monkeypatch.setattr(resizing, "version", lambda _: "2.11.0+cu130")
    resizing._torch_version.cache_clear()
    try:
        assert resizer("bicubic") == "PyTorch 2.11.0"
        assert resizer("lanczos") == pillow_here
        board = drawn(np.random.default_rng(4), 30, 3)
        resized = resize(pillow(board), (0, 0, 30, 30), 8, "lanczos")
        np.testing.assert_array_equal(resized, pillow(board).resize((8, 8), FILTERS["lanczos"]))
    finally:
        resizing._torch_version.cache_clear()
