"""Releases to measure, without training, and forged files in them and in checkpoints."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from gan_dist import models
from gan_dist.config import load_config, to_yaml
from gan_dist.core import rng
from gan_dist.core.storage import StorageOptions
from gan_dist.core.storage.hashed_folder import to_json, write_folder
from gan_dist.evaluation.tasks import Request
from gan_dist.models import release
from gan_dist.models.generator import ImageShape
from gan_dist.models.mixture import MIXTURE, Member, member_files


def untrained(folder: Path, *overrides: str, seed: int = 0) -> str:
    """Write the release of an untrained generator of 8x8 digits, and return its run's folder.

    The weights are a function of `seed`.
    """
    small = ["name=run", f"storage={folder}", "model.width=8", "model.max_width=16"]
    settings = load_config("digits", [*small, *overrides])
    classes = 10 if settings.model.conditional else 0
    generator, _ = models.build(settings.model, ImageShape(8, 1, classes))
    models.initialise(generator, rng.generator(seed, "generator"))
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


def mixture_of(runs: Sequence[str], weights: Sequence[float], to: Path) -> str:
    """Write the best releases of some runs as a mixture, and return its folder."""
    contents: dict[str, bytes] = {}
    members = []
    for number, (run, weight) in enumerate(zip(runs, weights, strict=True)):
        uri, _, own = release.read_generator_folder(run)
        contents |= {**own, **contents}
        contents |= dict(zip(member_files(number), (own[release.WEIGHTS], own[release.CONFIG]), strict=True))
        sha256 = hashlib.sha256(own[release.WEIGHTS]).hexdigest()
        members.append(
            Member(weight=weight, source=uri, sha256=sha256, trial=number, images=0, value=1.0).model_dump()
        )
    del contents[release.WEIGHTS]
    judged = dict.fromkeys(("held_out", "single", "chosen", "real"), 1.0)
    contents[MIXTURE] = to_json({"format": 1, "members": members, "seed": 0, **judged})
    write_folder(str(to), "release", contents.items())
    return str(to)


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
