"""How many images a run needs that begins with the weights of another one (`init.from`).

The digits 0 to 4 are trained first, once. Then the digits 5 to 9 are trained until their distance to the real
ones is that of two random halves of these, with three seeds: from nothing, from the first run's best
release, from that with a stage of the discriminator frozen, and from its generator alone.
"""

from __future__ import annotations

from statistics import mean, median
from tempfile import TemporaryDirectory

import torch

from gan_dist.artifacts.records import read_records
from gan_dist.config import RunConfig, load_config
from gan_dist.core.rng import permutation
from gan_dist.data.batches.loader import to_batch
from gan_dist.data.batches.readers import read_all
from gan_dist.data.builtin import open_builtin
from gan_dist.evaluation.extractors.digits import load_digits
from gan_dist.evaluation.metrics.distances import frechet_distance
from gan_dist.evaluation.metrics.moments import Moments
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from gan_dist.training.progress import ProgressLine

FIRST, SECOND = (f"builtin://digits?classes={classes}" for classes in ("0-4", "5-9"))
SEEDS: tuple[int, ...] = (1, 2, 3)
SPLITS = 50
MULTIPLES = (8, 4, 2, 1)
"""Of the distance between two random halves of the real digits 5 to 9."""
WAYS: dict[str, list[str]] = {
    "transfer": [],
    "transfer_freeze_d_1": ["init.freeze_d=1"],
    "transfer_generator_only": ["init.networks=[generator,average]"],
}


def run(*, quick: bool = False) -> dict[str, object]:
    """Return the thousands of images of each way to multiples of the distance of halves.

    They are medians over the seeds, in the order of `distances`; a way that does not get there has the length
    of its runs. The ratios to `scratch` have the same order.
    """
    torch.set_num_threads(1)
    halves, seeds, source_kimg, longest = _halves(), SEEDS, 40.0, 30.0
    if quick:
        seeds, source_kimg, longest = SEEDS[:1], 1.28, 1.28
    distances = [multiple * halves for multiple in MULTIPLES]
    with TemporaryDirectory(prefix="gan-dist-bench-") as folder:
        source = _config(folder, "source", FIRST, f"train.kimg={source_kimg}", "eval.target=null")
        _train(source)
        begun = [f"init.from={source.run_uri}"]
        ways: dict[str, list[str]] = {"scratch": []} | {name: [*begun, *more] for name, more in WAYS.items()}
        kimg: dict[str, list[list[float]]] = {name: [] for name in ways}
        for seed in seeds:
            for name, given in ways.items():
                more = [f"seed={seed}", f"train.kimg={longest}", f"eval.target={halves}", *given]
                kimg[name].append(_reached(_config(folder, f"{name}-{seed}", SECOND, *more), distances))
    medians = {name: [median(at) for at in zip(*values, strict=True)] for name, values in kimg.items()}
    ratios = {
        f"{name}_over_scratch": [a / b for a, b in zip(medians[name], medians["scratch"], strict=True)]
        for name in WAYS
    }
    return {
        "distances": distances,
        "source_kimg": source_kimg,
        "kimg": kimg,
        "median_kimg": medians,
        **ratios,
    }


def _config(folder: str, name: str, data: str, *more: str) -> RunConfig:
    samples = open_builtin(data).manifest.count
    given = [f"storage={folder}", f"name={name}", f"data.path={data}", f"eval.samples={samples}"]
    alone = ["scale.workers=1", "data.cache=memory", "train.checkpoint_every_s=null", "eval.every_kimg=0.64"]
    return load_config("digits", [*given, *alone, *more])


def _halves() -> float:
    """Return the mean distance between two random halves of the real digits 5 to 9."""
    images = open_builtin(SECOND)
    pixels = to_batch(read_all(images), images, images.manifest.height).images
    features = load_digits(torch.device("cpu"))(pixels).features
    half = len(features) // 2
    orders = [torch.from_numpy(permutation(len(features), split, "halves")) for split in range(SPLITS)]
    return mean(
        frechet_distance(Moments.of(features[order[:half]]), Moments.of(features[order[half : 2 * half]]))
        for order in orders
    )


def _train(config: RunConfig) -> None:
    with ProgressLine(config.log.every_s) as line:
        line.status(f"training {config.name}")
        train(config, LocalContext(config.run_uri, on_progress=line.update))


def _reached(config: RunConfig, distances: list[float]) -> list[float]:
    """Train a run; return the thousands of images of its first evaluation at or below each distance.

    That is the length of the run where there is none.
    """
    _train(config)
    measured = [record for record in read_records(config.run_uri) if "fd_digits" in record]
    return [
        next((float(one["kimg"]) for one in measured if one["fd_digits"] <= distance), config.train.kimg)
        for distance in distances
    ]
