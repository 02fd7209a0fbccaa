"""Folders of searches and runs as training leaves them, made in milliseconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save

from gan_dist.artifacts.records import METRICS
from gan_dist.core import storage
from gan_dist.core.storage.hashed_folder import to_json, write_folder
from tests.support.releases import untrained

Record = dict[str, Any]
SMALL = {
    "generator.safetensors": save({"w": torch.zeros(2)}),
    "config.yaml": b"name: '00000'\ndata: {path: 'builtin://digits'}\n",
    "shape.json": to_json({"resolution": 8, "channels": 1, "classes": 0}),
    "samples.png": b"\x89PNG",
}


def record(images: int, value: object, metric: str = "fd_digits") -> Record:
    return {"images": images, "kimg": images / 1000, "loss_d": 1.0, metric: value}


def write_run(uri: str, records: list[Record], *released: Record, metric: str = "fd_digits") -> None:
    """Write what a run leaves, with releases that hold no network."""
    lines = "".join(json.dumps(one) + "\n" for one in records)
    storage.write_bytes(storage.join(uri, METRICS), lines.encode())
    for one in released:
        name = f"best_{one['images']:012d}"
        write_folder(storage.join(uri, name), "release", {**SMALL, "metrics.json": to_json(one)}.items())
        pointer = {"release": name, "images": one["images"], "metric": metric, "value": one[metric]}
        storage.write_bytes(storage.join(uri, "best.json"), to_json(pointer))


def write_search(uri: str, metric: str = "fd_digits", **more: object) -> None:
    goal = {"metric": metric, "format": 1, **more}
    storage.write_bytes(storage.join(uri, "search.json"), to_json(goal))


def trial_uri(uri: str, number: int) -> str:
    return storage.join(uri, "trials", f"{number:05d}")


def flip_bit(release: Path) -> None:
    weights = release / "generator.safetensors"
    content = bytearray(weights.read_bytes())
    content[-1] ^= 1
    weights.write_bytes(content)


def measured_run(folder: Path, *overrides: str, seed: int = 0) -> str:
    """Write a run of an untrained generator, with a record and a release that are real; return its folder."""
    uri = untrained(folder, *overrides, seed=seed)
    told = json.loads(Path(uri, "best_000000000000", "metrics.json").read_text())
    storage.write_bytes(storage.join(uri, METRICS), (json.dumps(told) + "\n").encode())
    return uri


def as_trial(run_uri: str, search_uri: str, number: int) -> None:
    storage.copy_tree(run_uri, trial_uri(search_uri, number))


def files(folder: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in folder.iterdir()}
