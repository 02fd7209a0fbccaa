"""The README.md of a release: what the generator makes, what it learned from, how well, and how to use it.

Plain Markdown, with the front matter that model hubs read. Only what is known is said.
"""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import torch

from gan_dist import models
from gan_dist.config import DataConfig, RunConfig
from gan_dist.core import storage
from gan_dist.core.errors import GanDistError
from gan_dist.core.host import own_version
from gan_dist.data.batches.loader import open_images
from gan_dist.data.shards.manifest import Manifest
from gan_dist.models.generator import ImageShape
from gan_dist.models.release import SHAPE

if TYPE_CHECKING:
    from gan_dist.artifacts.best import BestRelease

CHANNELS = {1: "1 channel (grey)", 3: "3 channels (RGB)"}
PENALTIES = ("gp", "dragan", "r1", "r2")
OTHERS = ("clip", "label_smoothing", "instance_noise")
MANY = 20
"""Classes up to which their names are listed."""

PAGE = """\
---
library_name: gan-dist
tags:
- gan
- image-generation
- gan-dist
---

# {title}

![Generated images](samples.png)

| | |
| --- | --- |
{rows}

Everything that was measured is in `metrics.json`, every setting in `config.yaml`.

## Use

```python
import gan_dist

release = gan_dist.load({literal})
images = release.sample(64, seed=0)  # uint8, (64, {channels}, {resolution}, {resolution})
```

Or as a picture: `gan-dist sample {quoted}`. Measured anew: `gan-dist evaluate {quoted}`. As one file that
runs without gan-dist: `gan-dist export {quoted} --to generator.onnx`.

## Train it again

```
{train}
```

The same command continues that run if it is stopped; `key=value` changes any setting of `config.yaml`.
"""


def model_card(found: BestRelease, folder: str) -> str:
    """Return the text of a release's README.md.

    Args:
        found: The release, and where it comes from.
        folder: Name of the folder that the page will be in.
    """
    shape = ImageShape(**json.loads(found.contents[SHAPE]))
    manifest = _manifest(found.config)
    rows = [
        *_makes(shape, manifest),
        *_data(found.config, manifest),
        *_network(found.config, shape),
        *_training(found),
        *_measured(found),
    ]
    if (version := own_version()) != "unknown":
        rows.append(("written by", f"gan-dist {version}"))
    train = ["gan-dist", "train", f"{folder}/config.yaml", f"name={found.name}-best", "storage=runs"]
    return PAGE.format(
        title=found.name if found.trial is None else f"{found.name}, trial {found.trial}",
        rows="\n".join(f"| {name} | {said} |" for name, said in rows),
        literal=json.dumps(folder, ensure_ascii=False),
        quoted=shlex.quote(folder),
        channels=shape.channels,
        resolution=shape.resolution,
        train=shlex.join([*train, f"train.kimg={found.config.train.kimg:g}"]),
    )


Rows = Iterator[tuple[str, str]]


def _manifest(config: RunConfig) -> Manifest | None:
    """Return what is known of the set, which need not be reachable from here."""
    with suppress(GanDistError):
        return open_images(config.data.path).manifest
    return None


def _makes(shape: ImageShape, manifest: Manifest | None) -> Rows:
    channels = CHANNELS.get(shape.channels, f"{shape.channels} channels")
    yield "makes", f"images of {shape.resolution}x{shape.resolution} pixels, {channels}"
    if shape.classes:
        names = manifest.classes if manifest and manifest.classes else ()
        listed = f": {', '.join(names)}" if 0 < len(names) <= MANY else ""
        yield "classes", f"{shape.classes}{listed}"


def _data(config: RunConfig, manifest: Manifest | None) -> Rows:
    count = f", {manifest.count:,} images" if manifest else ""
    yield "data", f"`{storage.redact(config.data.path)}`{count}"
    if manifest and manifest.license:
        yield "licence of the data", manifest.license
    if manifest and manifest.attribution:
        yield "attribution", manifest.attribution


def _network(config: RunConfig, shape: ImageShape) -> Rows:
    with torch.device("meta"):
        generator, _ = models.build(config.model, shape)
    count = sum(weights.numel() for weights in generator.parameters())
    latent = f"latents of {config.model.latent_dim} numbers"
    yield "generator", f"{config.model.name}, {count:,} parameters, {latent}"
    yield "weights", f"exponential moving average, half-life {config.ema.half_life_kimg:g} kimg"


def _training(found: BestRelease) -> Rows:
    config, loss, optim = found.config, found.config.loss, found.config.optim
    yield "loss", loss.name
    penalties = [f"{key} {getattr(loss, key):g}" for key in PENALTIES if getattr(loss, key)]
    if penalties:
        every = f", every {loss.penalty_every} updates" if loss.penalty_every > 1 else ""
        yield "penalties", f"{', '.join(penalties)}{every}"
    if others := [f"{key} {getattr(loss, key):g}" for key in OTHERS if getattr(loss, key)]:
        yield "stabilised by", ", ".join(others)
    if shown := _shown(config.data):
        yield "augmentation", shown
    rates = f"learning rates {optim.g.lr:g} (generator) and {optim.d.lr:g} (discriminator)"
    yield "optimizer", f"{optim.name}, {rates}"
    yield "schedule", _schedule(config)
    batch = f"in batches of {config.train.batch_size}"
    yield "training", f"{found.images / 1000:g} kimg (thousands of images seen) {batch}, seed {config.seed}"


def _shown(data: DataConfig) -> str:
    """Return how images are changed before the discriminator sees them; empty where they are not."""
    changes = ["reals mirrored at random"] if data.mirror else []
    if data.augment != "none":
        probability = "" if data.augment_p is None else f" with a probability of {data.augment_p:g}"
        changes.insert(0, f"{data.augment}{probability}")
    return ", ".join(changes)


def _schedule(config: RunConfig) -> str:
    """Return what changes with the clock, from its value at the start, which the other rows tell."""
    loss, optim = config.loss, config.optim
    if optim.schedule == "constant":
        return optim.schedule
    ends = [f"learning rates to {optim.end_factor:g} of themselves"]
    if loss.penalty_end_factor != 1:
        ends.append(f"penalties to {loss.penalty_end_factor:g} of themselves")
    for network, rate in (("generator", optim.g), ("discriminator", optim.d)):
        if rate.beta2_start is not None:
            ends.append(f"beta2 ({network}) from {rate.beta2_start:g} to {rate.beta2:g}")
    if config.data.augment_p is not None:
        ends.append("augmentation from 0")
    return f"{optim.schedule} over {optim.decay_kimg:g} kimg: {', '.join(ends)}"


def _measured(found: BestRelease) -> Rows:
    record = found.record
    better = "lower" if found.mode == "min" else "higher"
    samples = f", of {record['samples']:,} generated images" if "samples" in record else ""
    yield found.metric, f"{found.value:.6g} ({better} is better){samples}"
    if "extractor" in record:
        digest = f", SHA-256 `{record['extractor_sha256']}`" if "extractor_sha256" in record else ""
        yield "extractor", f"{record['extractor']}{digest}"
    if "resize" in record:
        yield "resizing", str(record["resize"])
