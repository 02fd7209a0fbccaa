"""What `gan-dist audit` says of honest runs and of forged ones, and what it costs.

Honest runs have random settings, and are continued once after their end. Each forgery changes one thing of a
finished run: a learning rate in its configuration, an image of its set, a bit of a checkpoint's weights with
its hash made anew, a figure in its records. The cost is the time of an audit over that of the run, over the
share of the images that were trained again: 1 would be training alone.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from gan_dist.config import RunConfig, load_config
from gan_dist.data.builtin import DIGITS
from gan_dist.training.audit import audit_run, verdict
from gan_dist.training.audit_checks import Check
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train

HONEST = 20
SMALL = [
    *(
        "model.name=dcgan",
        "model.max_width=null",
        "model.width=4",
        "model.latent_dim=8",
        "data.resolution=16",
    ),
    *("eval.samples=64", "scale.workers=1", "train.keep=20", "train.checkpoint_every_s=null", "name=run"),
]
CHOICES: dict[str, list[object]] = {
    "loss.name": ["nonsaturating", "hinge", "wgan-gp", "rpgan", "lsgan"],
    "train.batch_size": [16, 32, 64],
    "data.augment": ["none", "diffaugment", "ada"],
    "optim.name": ["adam", "rmsprop"],
    "seed": [0, 1, 2, 3],
    "data.cache": ["memory", "stream"],
}


def run(*, quick: bool = False) -> dict[str, object]:
    """Return how many honest runs passed, how many forgeries were found, and the cost."""
    torch.set_num_threads(1)
    honest = 3 if quick else HONEST
    with tempfile.TemporaryDirectory() as folder:
        passed = sum(_passes(Path(folder) / str(number), random.Random(number)) for number in range(honest))
        forged = Path(folder) / "forged"
        _prepare(forged, "train.kimg=0.96", "eval.every_kimg=0.192", "loss.name=nonsaturating")
        found = {change.__name__.strip("_"): _is_found(forged, change) for change in FORGERIES}
        kimg = 1.92 if quick else 19.2
        cost = _cost(Path(folder) / "cost", kimg)
    return {"honest": honest, "passed": passed, **found, **cost}


def _config(folder: Path, *settings: str) -> RunConfig:
    places = [f"storage={folder}", f"data.path={folder / 'set'}", "eval.target=null"]
    return load_config("digits", [*places, *SMALL, *settings])


def _prepare(folder: Path, *settings: str) -> float:
    """Train a run on a copy of the digits; return the seconds that it took."""
    folder.mkdir()
    shutil.copytree(DIGITS, folder / "set")
    return _train(_config(folder, *settings))


def _train(config: RunConfig) -> float:
    began = time.perf_counter()
    train(config, LocalContext(config.run_uri))
    return time.perf_counter() - began


def _audit(folder: Path, segments: int, seed: int = 0) -> list[Check]:
    return list(audit_run(str(folder / "run"), segments, seed, lambda _: None))


def _passes(folder: Path, chance: random.Random) -> bool:
    settings = ["eval.every_kimg=0.192", *(f"{key}={chance.choice(CHOICES[key])}" for key in CHOICES)]
    _prepare(folder, *settings, f"train.kimg={chance.choice([0.2, 0.4])}")
    _train(_config(folder, *settings, "train.kimg=0.6"))
    return verdict(_audit(folder, 3, chance.randrange(100))) is True


def _is_found(folder: Path, change: Callable[[Path], None]) -> bool:
    shutil.copytree(folder, folder.with_name("kept"))
    change(folder)
    found = verdict(_audit(folder, 1)) is False
    shutil.rmtree(folder)
    folder.with_name("kept").rename(folder)
    return found


def _changed_rate(folder: Path) -> None:
    file = folder / "run" / "config.yaml"
    file.write_text(re.sub(r"lr: \S+", "lr: 0.0123", file.read_text(), count=1))


def _swapped_image(folder: Path) -> None:
    file = folder / "set" / "shard-00000.parquet"
    content = bytearray(file.read_bytes())
    at = len(content) // 2
    content[at : at + 64], content[at + 64 : at + 128] = content[at + 64 : at + 128], content[at : at + 64]
    file.write_bytes(content)


def _flipped_bit(folder: Path) -> None:
    checkpoint = sorted((folder / "run").glob("checkpoint_*"))[1]
    weights = bytearray((checkpoint / "generator.safetensors").read_bytes())
    weights[-1] ^= 1
    (checkpoint / "generator.safetensors").write_bytes(weights)
    manifest = json.loads((checkpoint / "manifest.json").read_text())
    manifest["files"]["generator.safetensors"] = hashlib.sha256(weights).hexdigest()
    (checkpoint / "manifest.json").write_text(json.dumps(manifest))


def _edited_figure(folder: Path) -> None:
    file = folder / "run" / "metrics.jsonl"
    records = [json.loads(line) for line in file.read_text().splitlines()]
    for one in records:
        if "fd_digits" in one:
            one["fd_digits"] *= 0.9
    file.write_text("".join(json.dumps(one) + "\n" for one in records))


FORGERIES = (_changed_rate, _swapped_image, _flipped_bit, _edited_figure)


def _cost(folder: Path, kimg: float) -> dict[str, object]:
    length = [f"train.kimg={kimg}", f"eval.every_kimg={kimg / 12}"]
    seconds = _prepare(folder, *length, "loss.name=nonsaturating", "model.width=16")
    began = time.perf_counter()
    checks = _audit(folder, 3)
    audit_s = time.perf_counter() - began
    share = sum(check.images for check in checks) / (1000 * kimg)
    return {
        "run_s": seconds,
        "audit_s": audit_s,
        "share_trained_again": share,
        "cost_over_share": audit_s / seconds / share,
    }
