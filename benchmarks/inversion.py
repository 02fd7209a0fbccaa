"""How near `gan-dist sample --like` comes to images that the generator itself has made, and how fast.

The generator is the preset `digits` after 20 kimg. Each of its images, of other seeds than the search's, is
inverted from nothing but its pixels. 30 dB are a root mean squared difference of 8 of 255 levels.
"""

from __future__ import annotations

import statistics
import tempfile
import time

import torch

from gan_dist.artifacts.inversion import invert, psnr
from gan_dist.config import load_config
from gan_dist.core.host import cores
from gan_dist.models import release
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train

IMAGES = 20
NEAR_DB = 30


def run(*, quick: bool = False) -> dict[str, object]:
    """Return how near the images came, and the seconds of the clock and of the CPU that each took."""
    torch.set_num_threads(cores())
    kimg, images = (0.64, 2) if quick else (20, IMAGES)
    with tempfile.TemporaryDirectory() as folder:
        alone = ["name=run", f"storage={folder}", "scale.workers=1", "data.cache=memory"]
        length = [f"train.kimg={kimg}", f"eval.every_kimg={kimg}", "eval.target=null"]
        config = load_config("digits", [*alone, *length])
        train(config, LocalContext(config.run_uri))
        generator = release.load(config.run_uri)
    reached, seconds, cpu_seconds = [], [], []
    for number in range(images):
        picture = generator.sample(1, seed=1000 + number)[0]
        began, cpu_began = time.perf_counter(), time.process_time()
        found = invert(generator, picture)
        seconds.append(time.perf_counter() - began)
        cpu_seconds.append(time.process_time() - cpu_began)
        reached.append(psnr(found.images[0], picture))
    return {
        "images": images,
        f"at_least_{NEAR_DB}_db": sum(value >= NEAR_DB for value in reached),
        "median_db": statistics.median(reached),
        "least_db": min(reached),
        "median_s": statistics.median(seconds),
        "longest_s": max(seconds),
        "median_cpu_s": statistics.median(cpu_seconds),
    }
