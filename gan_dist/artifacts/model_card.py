"""The model card of a release: what it was trained on, how, its scores and its use."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from typing import Any

from gan_dist import models
from gan_dist.artifacts.best import BestRelease
from gan_dist.artifacts.records import is_score
from gan_dist.config import DataConfig, EmaConfig, InitConfig, LossConfig, ModelConfig, OptimConfig
from gan_dist.config.augment import format_augment
from gan_dist.config.fields import override, valid_name
from gan_dist.config.schedules import Points
from gan_dist.config.yaml12 import dump
from gan_dist.core import storage
from gan_dist.core.errors import GanDistError
from gan_dist.core.host import own_version
from gan_dist.core.import_path import is_import_path
from gan_dist.core.storage import hub
from gan_dist.core.storage.hashed_folder import parse_file
from gan_dist.core.storage.redaction import as_argument, split_query
from gan_dist.data.batches.loader import open_images
from gan_dist.data.shards.manifest import Manifest
from gan_dist.models.generator import ImageShape
from gan_dist.models.init import shapes_only
from gan_dist.models.mixture import MIXTURE
from gan_dist.models.release import CONFIG, SHAPE

CARD = "README.md"
CHANNELS = {1: "1 channel (grey)", 3: "3 channels (RGB)", 4: "4 channels (RGB and alpha)"}
PENALTIES = ("gp", "dragan", "r1", "r2")
OTHERS = ("clip", "label_smoothing", "instance_noise", "lecam")
MANY = 20
"""Number of classes up to which the card lists their names."""

TASK = "unconditional-image-generation"
LICENSES = re.compile(r"apache-2\.0|mit|cc0-1\.0|cc-by(-nc)?(-sa|-nd)?-[234]\.[05]|unknown")
"""Names of licences, among those that model repositories know, which images or models have."""

PAGE = """\
---
{front}---

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


def model_card(found: BestRelease, folder: str, license_name: str | None = None) -> str:
    """Return the README.md of a release in `folder`: Markdown, with the front matter that model hubs read.

    Without a licence the front matter has that of the images, or `unknown` where they have none. A mixture's
    rows are those of the card that it has.
    """
    config, shape = found.config, parse_file(found.release, found.contents, SHAPE, ImageShape.from_json)
    manifest = find_set(config.data.path)
    front = front_matter(found.record, config.data.path, manifest, config.init.source, license_name)
    if MIXTURE in found.contents:
        title, rows = parse_file(found.release, found.contents, CARD, _parse)
        return page(title, rows, shape, folder, front)
    kimg = f"{found.images / 1000:g} kimg (thousands of images seen)"
    rows = [
        *images_and_data(shape, config.data.path, manifest),
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
    read, fetch = f"{as_argument(folder)}/{CONFIG}", ""
    if hub.is_hub(folder):
        repository = hub.parse(folder).id
        read = f"{repository}/{CONFIG}"
        fetch = f"{shlex.join(['hf', 'download', repository, CONFIG, '--local-dir', repository])}\n"
    train = ["gan-dist", "train", read, name, "storage=runs", f"train.kimg={config.train.kimg:g}"]
    title = found.name if found.trial is None else f"{found.name}, trial {found.trial}"
    return page(title, rows, shape, folder, front, TRAIN.format(train=fetch + shlex.join(train)))


def page(
    title: str,
    rows: Iterable[tuple[str, str]],
    shape: ImageShape,
    folder: str,
    front: Mapping[str, Any],
    more: str = "",
) -> str:
    """Return a model card with these rows, of a release of images of this shape in `folder`."""
    version, folder = own_version(), as_argument(folder)
    if version != "unknown":
        rows = [*rows, ("written by", f"gan-dist {version}")]
    named = {**front, "model-index": [{"name": title, "results": front["model-index"]}]}
    return PAGE.format(
        front=dump(named),
        title=title,
        rows="\n".join(f"| {name} | {text} |" for name, text in rows),
        literal=json.dumps(folder, ensure_ascii=False),
        quoted=shlex.quote(folder),
        channels=shape.channels,
        height=shape.size.height,
        width=shape.size.width,
        more=more,
    )


def _parse(card: bytes) -> tuple[str, list[tuple[str, str]]]:
    """Return the title of a card, and its rows but the last, which says what has written it."""
    text = card.decode()
    table = text.partition("| --- | --- |\n")[2].partition("\n\n")[0]
    rows = [line.strip("| ").partition(" | ")[::2] for line in table.splitlines()]
    title = re.search(r"^# (.+)$", text, re.MULTILINE)
    if title is None:
        raise ValueError("it has no title")
    return title[1], [row for row in rows if row[0] != "written by"]


def front_matter(
    record: Mapping[str, Any],
    path: str,
    manifest: Manifest | None,
    begun_with: str | None = None,
    license_name: str | None = None,
) -> dict[str, Any]:
    """Return the front matter of a card; `huggingface_hub.ModelCardData` says what its keys mean.

    Args:
        record: The release's scores.
        path: The set that it was trained on.
        manifest: That of the set, None if it is out of reach.
        begun_with: `init.from` of its run.
        license_name: Of the weights; that of the set when absent.
    """
    place = split_query(path)[0].rstrip("/")
    dataset = place.removeprefix("hf://datasets/") if hub.is_hub(place) else place.rpartition("/")[2]
    scores = [{"type": key, "name": key, "value": value} for key, value in record.items() if is_score(key)]
    result = {"task": {"type": TASK}, "dataset": {"type": dataset, "name": dataset}, "metrics": scores}
    license_name = license_name or (manifest and manifest.license) or "unknown"
    known = license_name.lower().replace(" ", "-")
    other = {"license": "other", "license_name": license_name}
    return {
        **({"license": known} if LICENSES.fullmatch(known) else other),
        "library_name": "gan-dist",
        "pipeline_tag": TASK,
        "tags": ["gan", "image-generation", "gan-dist"],
        "datasets": [dataset],
        **({"base_model": hub.parse(begun_with).id} if begun_with and hub.is_hub(begun_with) else {}),
        "model-index": [result],
    }


def find_set(path: str) -> Manifest | None:
    """Return the manifest of a set of images; None if it is not within reach from here."""
    with suppress(GanDistError):
        return open_images(path).manifest
    return None


def images_and_data(shape: ImageShape, path: str, manifest: Manifest | None) -> Rows:
    """Yield the rows of what a release makes, and of the set at `path` that it was trained on."""
    channels = CHANNELS.get(shape.channels, f"{shape.channels} channels")
    yield "makes", f"images of {shape.size} pixels, {channels}"
    if shape.classes:
        names = manifest.classes if manifest and manifest.classes else ()
        listed = f": {', '.join(names)}" if 0 < len(names) <= MANY else ""
        yield "classes", f"{shape.classes}{listed}"
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
