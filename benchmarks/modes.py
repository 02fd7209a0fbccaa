"""How many of 1000 modes a generator covers: stacked digits at their own 8x8, by the StackedMNIST protocol.

The preset is trained to its end, its best release by distance makes 26,000 images from latents that training
never saw, and the digits' classifier names their modes. A perfect sampler's divergence from the uniform
distribution would be 999 / (2 x 26,000) = 0.0192; that of real images is measured beside it.
"""

from __future__ import annotations

import time
from tempfile import TemporaryDirectory

import torch

from gan_dist.config import RunConfig, load_config
from gan_dist.core.host import cores
from gan_dist.data.batches.readers import read_all
from gan_dist.data.builtin import DIGITS, StackedDigits
from gan_dist.data.shards.shard_set import ShardSet
from gan_dist.evaluation.extractors.digits import Digits, load_digits
from gan_dist.evaluation.metrics.class_scores import DigitModes
from gan_dist.models import release
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train
from gan_dist.training.progress import ProgressLine

PRESET = "stacked-digits"
SAMPLES = 26_000
CHUNK = 1000
SEED = 1
"""Of the latents; training evaluates with those of its own seed."""
TABLE = {
    "nonsaturating": ["loss.name=nonsaturating"],
    "wgan-gp": ["loss.name=wgan-gp"],
    "hinge": ["loss.name=hinge", "model.spectral_norm=true"],
    "rpgan+r1+r2": [],
}
"""The losses of `--all`: each with what its paper sets, on the preset's networks, batch and length."""


def run(*, quick: bool = False, everything: bool = False) -> dict[str, object]:
    """Return the figures of the preset and, with `everything`, of the other losses."""
    torch.set_num_threads(cores())
    device = torch.device("cpu")
    classifier = load_digits(device)
    best = _covered("rpgan+r1+r2", classifier, quick=quick)
    figures: dict[str, object] = {
        **best,
        "samples": SAMPLES,
        "perfect_kl": 999 / (2 * SAMPLES),
        "real": _real(classifier, quick=quick),
        "classifier_error": _error(classifier),
    }
    if everything:
        others = (name for name in TABLE if name != "rpgan+r1+r2")
        figures["table"] = {"rpgan+r1+r2": best} | {
            name: _covered(name, classifier, quick=quick) for name in others
        }
    return figures


def _covered(loss: str, classifier: Digits, *, quick: bool) -> dict[str, object]:
    """Train with a loss, and return the modes that the best release covers."""
    length = ["train.kimg=2.56", "eval.every_kimg=1.28", "eval.samples=256"] if quick else []
    with TemporaryDirectory(prefix="gan-dist-bench-") as folder:
        config = load_config(PRESET, ["name=bench", f"storage={folder}", *TABLE[loss], *length])
        began = time.perf_counter()
        with ProgressLine(config.log.every_s) as line:
            line.status(f"training with {loss}")
            train(config, LocalContext(config.run_uri, on_progress=line.update))
        minutes = (time.perf_counter() - began) / 60
        found = _modes(config, classifier)
        best = release.read_best(config.run_uri)
    return {
        "modes": found.hit,
        "kl": found.kl,
        "minutes": minutes,
        "kimg": config.train.kimg,
        "best_at_kimg": int(str(best["images"])) / 1000,
    }


def _modes(config: RunConfig, classifier: Digits) -> DigitModes:
    device = torch.device("cpu")
    found = DigitModes(classifier, channels=3, device=device)
    for chunk in release.load(config.run_uri).sample(SAMPLES, SEED).split(CHUNK):
        found.update(chunk)
    return found


def _real(classifier: Digits, *, quick: bool) -> dict[str, float]:
    """Return what the protocol says of real images."""
    count = 2000 if quick else SAMPLES
    images = read_all(StackedDigits(count))
    found = DigitModes(classifier, channels=3, device=torch.device("cpu"))
    pixels = torch.from_numpy(images.pixels).view(count, 8, 8, 3).permute(0, 3, 1, 2)
    for chunk in pixels.split(CHUNK):
        found.update(chunk)
    return {"modes": found.hit, "kl": found.kl}


def _error(classifier: Digits) -> float:
    """Return the share of digits that the classifier gets wrong, of those that it was not trained on."""
    rows = read_all(ShardSet(str(DIGITS)))
    assert rows.labels is not None
    images = torch.from_numpy(rows.pixels).view(-1, 1, 8, 8)[::5]
    labels = torch.from_numpy(rows.labels)[::5]
    return float((classifier.classify(images).argmax(1) != labels).double().mean())
