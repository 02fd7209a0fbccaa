"""Releases to measure, without training, and forged files in them and in checkpoints."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

from PIL import Image

from gan_dist import models
from gan_dist.config import load_config, to_yaml
from gan_dist.core import rng
from gan_dist.core.storage import StorageOptions
from gan_dist.evaluation.tasks import Request
from gan_dist.models import release
from gan_dist.models.generator import ImageShape


def untrained(folder: Path, *overrides: str) -> str:
    """Write the release of an untrained generator of 8x8 digits, and return its run's folder."""
    small = ["name=run", f"storage={folder}", "model.width=8", "model.max_width=16"]
    settings = load_config("digits", [*small, *overrides])
    classes = 10 if settings.model.conditional else 0
    generator, _ = models.build(settings.model, ImageShape(8, 1, classes))
    models.initialise(generator, rng.generator(0, "generator"))
    if classes:  # which make no difference before training
        for number, weights in enumerate(generator.parameters()):
            weights.data += 0.2 * rng.normal(tuple(weights.shape), 0, "shaken", number)
    release.best_writer(
        settings.run_uri,
        generator,
        shape=ImageShape(8, 1, classes),
        config_yaml=to_yaml(settings),
        record={"images": 0, "fd_digits": 1.0},
        metric="fd_digits",
        picture=Image.new("L", (8, 8)),
    )()
    return settings.run_uri


def request_of(source: str, metrics: tuple[str, ...] = (), data: str = "builtin://digits") -> Request:
    """Return a request for 600 images of a release."""
    return Request(
        source=source,
        data=data,
        metrics=metrics,
        samples=600,
        repeats=1,
        extractor="digits",
        inception_weights=None,
        seed=1,
        storage=StorageOptions(),
    )


def rewrite(folder: Path, name: str, content: bytes) -> None:
    """Replace a file, and its hash in the folder's manifest: a forgery that knows the format."""
    (folder / name).write_bytes(content)
    manifest = json.loads((folder / "manifest.json").read_text())
    manifest["files"][name] = hashlib.sha256(content).hexdigest()
    manifest["sizes"][name] = len(content)
    (folder / "manifest.json").write_text(json.dumps(manifest))
