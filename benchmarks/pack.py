"""How fast images become shards, against what a bare Pillow loop decodes, times the cores.

The images are JPEG of CelebA's size, 178x218, packed to 64x64. The loop does the least that gives these
pictures with Pillow alone: decode, crop, resize by the same filter. Its speed differs by a seventh from
process to process, with where the allocator happens to put Pillow's buffer of a row: it is the median over
processes of its own. Packing is timed from its first report to the last byte written, the best of three
runs.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from gan_dist.core.host import cores

WIDTH, HEIGHT = 178, 218
RESOLUTION = 64
LOOPS = 9
DIFFERENT = 10_000
"""Pictures that are drawn; the others are links to them."""


def run(*, quick: bool = False) -> dict[str, object]:
    """Return the figures: rates in images a second, and their ratio."""
    from gan_dist.cluster.connect import connect
    from gan_dist.data.packing.decode import Decoding
    from gan_dist.data.packing.plan import make_plan
    from gan_dist.data.packing.ray_pack import pack
    from gan_dist.data.packing.sources import open_source
    from gan_dist.data.packing.sources.items import SourceOptions

    count = 500 if quick else 100_000
    with tempfile.TemporaryDirectory(prefix="gan-dist-bench-") as folder, connect():
        images = Path(folder, "images")
        _write_images(images, count)
        rates = []
        for number in range(3):
            source = open_source(str(images), SourceOptions())
            plan = make_plan(str(images), source, Decoding(RESOLUTION, 3, "lanczos"), 64.0)
            run_pack = partial(pack, source, str(Path(folder, f"set{number}")), plan, "0")
            rates.append(_pack_rate(run_pack, plan.images))
        loops = [_in_own_process(images, min(count, 3000)) for _ in range(3 if quick else LOOPS)]
        loop = statistics.median(loops)
    return {
        "images": count,
        "ratio": max(rates) / (loop * cores()),
        "images_per_second": {"pack": max(rates), "pillow_loop": loop, "cores": cores()},
        "packs": rates,
        "pillow_loops": sorted(loops),
    }


def _pack_rate(pack: Callable[[Callable[[int], None]], object], count: int) -> float:
    """Return images a second from the first decoded block to the set's last written byte."""
    first: list[tuple[float, int]] = []

    def show(done: int) -> None:
        if done and not first:
            first.append((time.perf_counter(), done))

    pack(show)
    began, done = first[0]
    return (count - done) / (time.perf_counter() - began)


def _write_images(folder: Path, count: int) -> None:
    folder.mkdir()
    draw = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number:06d}.jpg"
        if number >= DIFFERENT:
            path.hardlink_to(folder / f"{number % DIFFERENT:06d}.jpg")
            continue
        coarse = Image.fromarray(draw.integers(0, 256, (14, 12, 3), dtype=np.uint8))
        coarse.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(path, quality=90)


def _in_own_process(folder: Path, count: int) -> float:
    code = f"from benchmarks.pack import loop_rate; print(loop_rate({str(folder)!r}, {count}))"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return float(process.stdout)


def loop_rate(folder: str, count: int) -> float:
    """Return the images a second of the bare loop over a folder's first pictures, the better of two runs."""
    return max(_loop_rate(Path(folder), count) for _ in range(2))


def _loop_rate(folder: Path, count: int) -> float:
    paths = sorted(folder.iterdir())[:count]
    top = (HEIGHT - WIDTH) // 2
    began = time.perf_counter()
    for path in paths:
        with Image.open(path) as picture:
            square = picture.convert("RGB").crop((0, top, WIDTH, top + WIDTH))
            np.asarray(square.resize((RESOLUTION, RESOLUTION), Image.Resampling.LANCZOS))
    return count / (time.perf_counter() - began)
