"""Architectures at equal images: `python -m benchmarks networks`.

Each is trained on the handwritten digits and on coloured shapes with the loss that its paper has and rates
that suit it at this size, from three seeds. What counts is the lowest distance of a run, as a ratio to that
of R3GAN on the same set, both as medians over the seeds.
"""

from __future__ import annotations

import statistics
from collections.abc import Mapping
from tempfile import TemporaryDirectory

from gan_dist.artifacts.records import read_records
from gan_dist.config import load_config
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from gan_dist.training.progress import ProgressLine

REFERENCE = "r3gan"
SETS: Mapping[str, tuple[str, ...]] = {
    "digits": ("data.path=builtin://digits", "eval.samples=1797", "eval.extractor=digits"),
    "shapes": (
        "data.path=builtin://shapes?count=4000&resolution=16",
        "eval.samples=2000",
        "eval.extractor=random",
    ),
}
COMMON = (
    *("train.batch_size=64", "data.cache=memory", "data.augment=none", "eval.target=null"),
    *("scale.workers=1", "scale.gpus_per_worker=0", "ema.half_life_kimg=5", "model.latent_dim=32"),
    *("train.checkpoint_every_s=null", "model.settings={}"),
)
RECIPES: Mapping[str, tuple[str, ...]] = {
    REFERENCE: (
        *("model.name=r3gan", "model.width=48", "model.max_width=96", "model.blocks=1"),
        *("loss.name=rpgan", "loss.r1=0.3", "loss.r2=0.3"),
        *("optim.g={lr: 2e-3, beta1: 0, beta2: 0.99}", "optim.d={lr: 2e-3, beta1: 0, beta2: 0.99}"),
    ),
    "stylegan2": (
        *("model.name=stylegan2", "model.width=48", "model.max_width=96"),
        *("model.settings.w_dim=64", "model.settings.mapping_layers=4", "model.settings.style_mixing=0"),
        *("loss.name=nonsaturating", "loss.r1=0.3", "loss.penalty_every=4", "loss.path_length=2"),
        # Its weights are drawn from N(0, 1), so that a rate of 2e-2 is one of 2% of them.
        *("optim.g={lr: 2e-2, beta1: 0, beta2: 0.99}", "optim.d={lr: 2e-2, beta1: 0, beta2: 0.99}"),
    ),
    "fastgan": (
        *("model.name=fastgan", "model.width=48", "model.max_width=96", "loss.name=hinge"),
        *("optim.g={lr: 1e-3, beta1: 0.5, beta2: 0.99}", "optim.d={lr: 1e-3, beta1: 0.5, beta2: 0.99}"),
    ),
}
SEEDS = (0, 1, 2)
KIMG, QUICK_KIMG = 60.0, 0.256


def run(*, quick: bool) -> dict[str, object]:
    """Train all architectures on all sets, and return the lowest distances and the ratios."""
    figures: dict[str, object] = {"kimg": QUICK_KIMG if quick else KIMG}
    for data in SETS:
        lowest = {
            name: [best_distance(name, data, seed, quick=quick) for seed in (SEEDS[:1] if quick else SEEDS)]
            for name in RECIPES
        }
        reference = statistics.median(lowest[REFERENCE])
        for name, distances in lowest.items():
            figures[f"{data}_{name}"] = [round(distance, 4) for distance in distances]
            if name != REFERENCE:
                figures[f"{data}_{name}_ratio"] = statistics.median(distances) / reference
    return figures


def best_distance(name: str, data: str, seed: int, *, quick: bool = False) -> float:
    """Return the lowest distance of a run of an architecture on a set."""
    kimg = QUICK_KIMG if quick else KIMG
    with TemporaryDirectory(prefix="gan-dist-bench-") as folder:
        length = [f"train.kimg={kimg:g}", f"eval.every_kimg={kimg / (2 if quick else 12):g}"]
        place = [f"storage={folder}", "name=run", f"seed={seed}"]
        config = load_config("digits", [*RECIPES[name], *COMMON, *SETS[data], *length, *place])
        with ProgressLine(config.log.every_s) as line:
            line.print(f"{name} on {data}, seed {seed}")
            train(config, LocalContext(config.run_uri, on_progress=line.update))
        distances: list[float] = [
            value
            for record in read_records(config.run_uri)
            for key, value in record.items()
            if key.startswith("fd_")
        ]
        return min(distances)
