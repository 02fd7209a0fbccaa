"""Copy a release into a folder of its own, with a model card: its data, training, scores and use."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress

from gan_dist import models
from gan_dist.artifacts.best import BestRelease
from gan_dist.config import DataConfig, EmaConfig, InitConfig, LossConfig, ModelConfig, OptimConfig
from gan_dist.config.augment import format_augment
from gan_dist.config.fields import override, valid_name
from gan_dist.config.schedules import Points
from gan_dist.core import storage
from gan_dist.core.errors import CheckpointError, GanDistError, StorageError
from gan_dist.core.host import own_version
from gan_dist.core.import_path import is_import_path
from gan_dist.core.json_text import parse_object
from gan_dist.core.storage.hashed_folder import MANIFEST, parse_file, part_of, replace_folder
from gan_dist.core.storage.redaction import as_argument, split_query
from gan_dist.data.batches.loader import open_images
from gan_dist.data.shards.manifest import Manifest
from gan_dist.models.generator import ImageShape
from gan_dist.models.init import shapes_only
from gan_dist.models.mixture import MIXTURE
from gan_dist.models.release import DISCRIMINATOR, SHAPE, WEIGHTS

CARD = "README.md"
CHANNELS = {1: "1 channel (grey)", 3: "3 channels (RGB)", 4: "4 channels (RGB and alpha)"}
PENALTIES = ("gp", "dragan", "r1", "r2")
OTHERS = ("clip", "label_smoothing", "instance_noise", "lecam")
MANY = 20
"""Number of classes up to which the card lists their names."""

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
images = release.sample(64, seed=0)  # uint8, (64, {channels}, {height}, {width})
```

Or as a picture: `gan-dist sample {quoted}`. Measured anew: `gan-dist evaluate {quoted}`. As one file that
runs without gan-dist: `gan-dist export {quoted} --to generator.onnx`.
{more}"""
TRAIN = """
## Train it again

```
{train}
```

The same command continues that run if it is stopped; `key=value` changes any setting of `config.yaml`.
"""

Rows = Iterator[tuple[str, str]]
_PARTS = (WEIGHTS, DISCRIMINATOR, MIXTURE)
"""Files that one release has and another has not."""


def copy_release(found: BestRelease, to: str, *, with_discriminator: bool = False) -> bool:
    """Copy a release into a folder, with a model card, and with its discriminator if that is asked for.

    A kill at any moment leaves the earlier release or the new one, as `replace_folder` says; the next call
    completes the copy. Returns False if the folder had the same release already; then nothing is written.

    Raises:
        CheckpointError: it has no discriminator.
        StorageError: the folder is not empty and no earlier copy of a release, or cannot be written.
    """
    name = split_query(to)[0].rstrip("/").rpartition("/")[2]
    contents = {**found.contents, CARD: model_card(found, name).encode()}
    if with_discriminator and DISCRIMINATOR not in contents:
        shown = storage.redact(found.release)
        raise CheckpointError(
            f"--with-discriminator: {shown} has none, since an earlier version wrote it",
            "train on from a checkpoint of its run (init.from), or go on with the run to a better one",
        )
    if not with_discriminator:
        contents.pop(DISCRIMINATOR, None)
    return place_release(to, contents)


def place_release(to: str, contents: Mapping[str, bytes]) -> bool:
    """Write a release with its card into a folder, as `copy_release` says; raise its StorageError."""
    require_free(to)
    written = replace_folder(to, "release", contents)
    for name in storage.list_names(to):
        if name not in contents and (name in _PARTS or name.startswith("member-")):
            storage.delete_file(storage.join(to, name))  # of an earlier copy
    return written


def require_free(to: str) -> None:
    """Raise a StorageError if a folder is neither empty nor an earlier copy of a release."""
    names = storage.list_names(to)
    if not names:
        return
    if MANIFEST in names:
        with suppress(ValueError, KeyError, TypeError):
            manifest = parse_object(storage.read_bytes(storage.join(to, MANIFEST)))
            if manifest["kind"] == part_of("release") or (
                manifest["kind"] == "release" and CARD in manifest["files"]
            ):
                return
    more = ", ..." if len(names) > 3 else ""
    raise StorageError(
        f"{storage.redact(to)} holds {', '.join(names[:3])}{more}, and no release that `gan-dist best` put "
        "there",
        "give --to another folder, or empty this one",
    )


def model_card(found: BestRelease, folder: str) -> str:
    """Return the README.md of a release in `folder`: Markdown, with the front matter that model hubs read."""
    config, shape = found.config, parse_file(found.release, found.contents, SHAPE, ImageShape.from_json)
    kimg = f"{found.images / 1000:g} kimg (thousands of images seen)"
    rows = [
        *images_and_data(shape, config.data.path),
        ("generator", describe_generator(config.model, shape)),
        ("weights", f"exponential moving average, half-life {_half_life(config.ema)}"),
        *_loss(config.loss),
        *_augmentation(config.data),
        *_optimizer(config.optim, config.loss, config.data.augment_p),
        *_changes(config.schedules),
        *_init(config.init),
        ("training", f"{kimg} in batches of {config.train.batch_size}, seed {config.seed}"),
        *_measured(found),
    ]
    name = override("name", f"{valid_name(found.name)}-best")
    train = ["gan-dist", "train", f"{as_argument(folder)}/config.yaml", name, "storage=runs"]
    more = TRAIN.format(train=shlex.join([*train, f"train.kimg={config.train.kimg:g}"]))
    title = found.name if found.trial is None else f"{found.name}, trial {found.trial}"
    return page(title, rows, shape, folder, more)


def page(title: str, rows: Iterable[tuple[str, str]], shape: ImageShape, folder: str, more: str = "") -> str:
    """Return a model card with these rows, of a release of images of this shape in `folder`."""
    version, folder = own_version(), as_argument(folder)
    if version != "unknown":
        rows = [*rows, ("written by", f"gan-dist {version}")]
    return PAGE.format(
        title=title,
        rows="\n".join(f"| {name} | {text} |" for name, text in rows),
        literal=json.dumps(folder, ensure_ascii=False),
        quoted=shlex.quote(folder),
        channels=shape.channels,
        height=shape.size.height,
        width=shape.size.width,
        more=more,
    )


def images_and_data(shape: ImageShape, path: str) -> Rows:
    """Yield the rows of what a release makes, and of the set at `path` that it was trained on."""
    manifest = None
    with suppress(GanDistError):  # the set may not be within reach from here
        manifest = open_images(path).manifest
    yield from _images(shape, manifest)
    yield from _data(path, manifest)


def _images(shape: ImageShape, manifest: Manifest | None) -> Rows:
    channels = CHANNELS.get(shape.channels, f"{shape.channels} channels")
    yield "makes", f"images of {shape.size} pixels, {channels}"
    if shape.classes:
        names = manifest.classes if manifest and manifest.classes else ()
        listed = f": {', '.join(names)}" if 0 < len(names) <= MANY else ""
        yield "classes", f"{shape.classes}{listed}"


def _data(path: str, manifest: Manifest | None) -> Rows:
    count = f", {manifest.count:,} images" if manifest else ""
    yield "data", f"`{storage.redact(path)}`{count}"
    if manifest and manifest.license:
        yield "licence of the data", manifest.license
    if manifest and manifest.attribution:
        yield "attribution", manifest.attribution


def describe_generator(model: ModelConfig, shape: ImageShape) -> str:
    """Return an architecture's name, with its numbers of parameters and of latents."""
    if is_import_path(model.name):  # whose code may not be imported here
        return f"`{model.name}`, code of its maker's own, latents of {model.latent_dim} numbers"
    with shapes_only():
        generator = models.build_generator(model, shape)
    count = sum(weights.numel() for weights in generator.parameters())
    return f"{model.name}, {count:,} parameters, latents of {model.latent_dim} numbers"


def _half_life(ema: EmaConfig) -> str:
    start = "" if ema.half_life_start_kimg is None else f"{ema.half_life_start_kimg:g} to "
    return f"{start}{ema.half_life_kimg:g} kimg"


def _changes(schedules: Mapping[str, Points]) -> Rows:
    for key, points in schedules.items():
        yield f"`{key}`", ", ".join(f"{value:g} from {kimg:g} kimg on" for kimg, value in points)


def _init(init: InitConfig) -> Rows:
    if init.source is None:
        return
    yield "begun with", f"weights of `{storage.redact(init.source)}`, SHA-256 `{init.sha256}`"
    if init.freeze_d:
        stages = "the first stage" if init.freeze_d == 1 else f"the first {init.freeze_d} stages"
        yield "frozen", f"{stages} of the discriminator, from the image side on"


def _loss(loss: LossConfig) -> Rows:
    yield "loss", loss.name
    if penalties := [f"{key} {getattr(loss, key):g}" for key in PENALTIES if getattr(loss, key)]:
        every = f", every {loss.penalty_every} updates" if loss.penalty_every > 1 else ""
        yield "penalties", f"{', '.join(penalties)}{every}"
    if loss.path_length:
        yield "path lengths", f"weight {loss.path_length:g}, every {loss.path_length_every} updates"
    others = [f"{key} {getattr(loss, key):g}" for key in OTHERS if getattr(loss, key)]
    if loss.top_k < 1:
        others.append(f"top_k {loss.top_k:g}")
    if others:
        yield "stabilised by", ", ".join(others)


def _augmentation(data: DataConfig) -> Rows:
    changes = ["reals mirrored at random"] if data.mirror else []
    if data.augment != "none":
        probability = "" if data.augment_p is None else f" with a probability of {data.augment_p:g}"
        changes.insert(0, f"{format_augment(data.augment)}{probability}")
    if changes:
        yield "augmentation", ", ".join(changes)


def _optimizer(optim: OptimConfig, loss: LossConfig, augment_p: float | None) -> Rows:
    rates = f"learning rates {optim.g.lr:g} (generator) and {optim.d.lr:g} (discriminator)"
    yield "optimizer", f"{optim.name}, {rates}"
    if optim.schedule == "constant":
        yield "schedule", optim.schedule
        return
    ends = [f"learning rates to {optim.end_factor:g} of themselves"]
    if loss.penalty_end_factor != 1:
        ends.append(f"penalties to {loss.penalty_end_factor:g} of themselves")
    for network, rate in (("generator", optim.g), ("discriminator", optim.d)):
        if rate.beta2_start is not None:
            ends.append(f"beta2 ({network}) from {rate.beta2_start:g} to {rate.beta2:g}")
    if augment_p is not None:
        ends.append("augmentation from 0")
    yield "schedule", f"{optim.schedule} over {optim.decay_kimg:g} kimg: {', '.join(ends)}"


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
