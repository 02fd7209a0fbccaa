"""Pictures to pack, and packing and training in this process, without Ray."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import torch
import typer
from PIL import Image

from gan_dist.cli.images import read_given
from gan_dist.core.storage.hashed_folder import checkpoint_names
from gan_dist.data.packing import training_set
from gan_dist.data.packing.plan import Plan
from gan_dist.data.packing.sources.items import Source
from gan_dist.data.packing.task import begin_packing, finish_packing, make_shard, write_record
from gan_dist.data.shards.manifest import Manifest
from gan_dist.training.context import LocalContext
from gan_dist.training.loop import train


def save_photos(folder: Path, count: int, edges: tuple[int, int] = (20, 20)) -> Path:
    """Write pictures of noise in two classes, with edges in pixels between two bounds; return the folder."""
    draw = np.random.default_rng(count)
    for number in range(count):
        height, width = draw.integers(edges[0], edges[1] + 1, 2).tolist()
        pixels = draw.integers(0, 256, (height, width, 3), dtype=np.uint8)
        path = folder / ("cat", "dog")[number % 2] / f"{number:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return folder


def tensor_hashes(run_uri: str) -> dict[str, str]:
    """Return the sha256 of every file of tensors of a run's newest checkpoint, by its name."""
    manifest = json.loads(Path(run_uri, checkpoint_names(run_uri)[0], "manifest.json").read_text())
    return {name: str(entry) for name, entry in manifest["files"].items() if name.endswith(".safetensors")}


def pack_here(source: Source, path: str, plan: Plan) -> Manifest:
    """Make a set, or what is missing of it, one shard after another; print a line for each."""
    records = begin_packing(path, plan)
    for job in plan.jobs():
        if job.number not in records:
            typer.echo(f"packing {job.file}")
            items = source.items[job.start : job.stop]
            *_, last = make_shard(source.origin, plan, job, items, path, 1)
            assert last.record is not None
            write_record(path, job, last.record)
            records[job.number] = last.record
    return finish_packing(path, plan, source, records)


def train_here(*arguments: str) -> None:
    """Do what `gan-dist train IMAGES KEY=VALUE...` does, in shards of 16 KiB; print a line for each step."""
    torch.set_num_threads(1)
    training_set.SHARD_MB = 1 / 64
    typer.echo("listing")
    given = read_given(arguments[0], arguments[1:])
    settings = given.settings
    if given.images is not None and given.images.packing is not None and given.settings_for is not None:
        path, packing = given.images.path, given.images.packing
        training_set.write_listing(path, packing.source)
        settings = given.settings_for(pack_here(packing.source, path, packing.plan))
    config = settings.config()
    context = LocalContext(
        config.run_uri, on_progress=lambda progress: typer.echo(f"images {progress.images}")
    )
    train(config, context)


if __name__ == "__main__":
    train_here(*sys.argv[1:])
