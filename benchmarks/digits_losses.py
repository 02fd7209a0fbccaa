"""Every loss on the digits, for the preset's length: `python -m benchmarks.digits_losses`.

Prints a JSON object: for each loss the distance of its best release to the real digits, over the distance
between two halves of these, and for the preset with `model.conditional=true` the share of images whose class
the classifier finds to be the one that was asked for. Distances are between 898 generated and 898 real
images, the size of a half, as means over ten random halves; at the same number the bias is the same.
"""

from __future__ import annotations

import json
import sys
from tempfile import TemporaryDirectory

import torch
from torch import Tensor

from benchmarks.record import environment
from gan_dist.config import RunConfig, load_config
from gan_dist.config.loss_defaults import LOSS_DEFAULTS
from gan_dist.core.errors import NonFiniteError
from gan_dist.core.host import cores
from gan_dist.data.batches.readers import read_all
from gan_dist.data.builtin import DIGITS
from gan_dist.data.shards.shard_set import ShardSet
from gan_dist.evaluation.extractors.digits import load_digits
from gan_dist.evaluation.metrics.distances import frechet_distance
from gan_dist.evaluation.metrics.moments import Moments
from gan_dist.models import release
from gan_dist.models.generator import Release
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from gan_dist.training.progress import ProgressLine

HALVES = 10
SEED = 1  # of latents that training has not seen
DEVICE = torch.device("cpu")


def main() -> None:
    """Train with each loss, and print the figures."""
    torch.set_num_threads(cores())
    classifier = load_digits(DEVICE)
    reals = classifier(_digits()).features
    halves = [torch.randperm(len(reals), generator=torch.Generator().manual_seed(n)) for n in range(HALVES)]
    floor = _mean_distance(reals, reals, halves)
    figures: dict[str, object] = {"floor": floor}
    for loss in LOSS_DEFAULTS:
        try:
            samples = _trained([f"loss.name={loss}"]).sample(len(reals), SEED)
        except NonFiniteError as error:
            figures[loss] = str(error)
            continue
        distance = _mean_distance(classifier(samples).features, reals, halves)
        figures[loss] = {"fd_digits_898": distance, "over_floor": distance / floor}
    conditional = _trained(["model.conditional=true"])
    asked = torch.arange(2000) % 10
    made = classifier.classify(conditional.sample(2000, SEED, asked.tolist())).argmax(1)
    figures["conditional_hits"] = float((made == asked).double().mean())
    sys.stdout.write(json.dumps({**figures, "environment": environment()}) + "\n")


def _digits() -> Tensor:
    return torch.from_numpy(read_all(ShardSet(str(DIGITS))).pixels).view(-1, 1, 8, 8)


def _mean_distance(one: Tensor, other: Tensor, halves: list[Tensor]) -> float:
    """Return the mean distance between the first half of `one` and the second of `other`."""
    size = len(one) // 2
    distances = [
        frechet_distance(Moments.of(one[half[:size]]), Moments.of(other[half[size : 2 * size]]))
        for half in halves
    ]
    return sum(distances) / len(distances)


def _trained(overrides: list[str]) -> Release:
    """Return the best release of the preset with these overrides, trained in this process."""
    with TemporaryDirectory(prefix="gan-dist-bench-") as folder:
        alone = ["name=run", f"storage={folder}", "scale.workers=1", "data.cache=memory"]
        to_the_end = ["eval.every_kimg=10", "eval.target=null"]
        config: RunConfig = load_config("digits", [*alone, *to_the_end, *overrides])
        with ProgressLine(config.log.every_s) as line:
            line.print(" ".join(overrides))
            train(config, LocalContext(config.run_uri, on_progress=line.update))
        return release.load(config.run_uri)


if __name__ == "__main__":
    main()
